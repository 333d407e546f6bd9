"""The models that can be trained. A new one is a module like these and one line in MODELS.

A model's module holds `Options`, the dataclass of its options; `DEFAULTS`, what choosing this model sets when the user
does not say (data, optimizer, lr, ...); and `build(options, schema, dtype) -> Model`, which raises UserError where
the options or the form of the samples (`Schema`) do not fit.
"""

from types import ModuleType

from mpidp.models import cnn, gpt, linear, logistic, mlp

MODELS: dict[str, ModuleType] = {
    "linear": linear,  # least squares
    "logistic": logistic,  # two classes, one logit
    "mlp": mlp,  # dense layers
    "cnn": cnn,  # convolutions, maxima, dense layers
    "gpt": gpt,  # GPT-2
}

"""The models that can be trained. A new one is a module like these and one line in MODELS."""

from typing import Any, Protocol

from mpidp.data.schema import Schema
from mpidp.models import cnn, gpt, linear, logistic, mlp
from mpidp.nn.model import Model


class ModelSpec(Protocol):
    """What a model's module holds."""

    Options: type
    """Its options, a dataclass."""
    DEFAULTS: dict[str, Any]
    """What choosing this model sets when the user does not say: data, optimizer, lr, ..."""

    def build(self, options: Any, schema: Schema, dtype: Any) -> Model:
        """The model for these options and samples of this form; UserError where they do not fit each other."""
        ...


MODELS: dict[str, ModelSpec] = {
    "linear": linear,  # least squares
    "logistic": logistic,  # two classes, one logit
    "mlp": mlp,  # dense layers
    "cnn": cnn,  # convolutions, maxima, dense layers
    "gpt": gpt,  # GPT-2
}

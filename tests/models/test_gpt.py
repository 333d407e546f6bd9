from types import SimpleNamespace

import numpy as np
import pytest

from mpidp.errors import UserError
from mpidp.models.gpt import SIZES, Options, build, generate
from tests.nn.gradcheck import bound, check_model


def text(tokens=10, outputs=20):
    return SimpleNamespace(kind="tokens", inputs=(tokens,), outputs=outputs)


def small(dtype=np.float64, **options):
    return bound(
        build(Options(**{"layers": 2, "heads": 2, "width": 8, "context": 12, **options}), text(), dtype)
    )


def batch(samples=3, tokens=10):
    return np.random.default_rng(0).integers(0, 20, (2, samples, tokens)).astype(np.int32)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_whole_gradient(dropout):
    model = small(dropout=dropout)
    model.params *= 3
    check_model(model, *batch(), key=(5, 6))


def test_whole_gradient_over_attention_blocks():
    model = small(context=150)
    model.params *= 3
    check_model(model, *batch(tokens=150), tolerance=1e-7)


def test_gpt2_has_124_million_parameters():
    model = build(Options(size="gpt2"), text(1024, 50257))
    assert model.size == 124_439_808
    assert model.params is None  # counted without allocating


@pytest.mark.parametrize("size", SIZES)
def test_presets(size):
    shape = SIZES[size]
    model = build(Options(size=size), text(shape.context, 256))
    vocabulary, c = shape.vocabulary or 256, shape.width
    assert model.size == (vocabulary + shape.context + 2) * c + shape.layers * (12 * c * c + 13 * c)


def test_gpt2s_own_names_and_shapes():
    shapes = {p.name: p.shape for p in small(layers=1).parameters}
    assert shapes == {
        "wte.weight": (20, 8),
        "wpe.weight": (12, 8),
        "h.0.ln_1.weight": (8,),
        "h.0.ln_1.bias": (8,),
        "h.0.attn.c_attn.weight": (8, 24),
        "h.0.attn.c_attn.bias": (24,),
        "h.0.attn.c_proj.weight": (8, 8),
        "h.0.attn.c_proj.bias": (8,),
        "h.0.ln_2.weight": (8,),
        "h.0.ln_2.bias": (8,),
        "h.0.mlp.c_fc.weight": (8, 32),
        "h.0.mlp.c_fc.bias": (32,),
        "h.0.mlp.c_proj.weight": (32, 8),
        "h.0.mlp.c_proj.bias": (8,),
        "ln_f.weight": (8,),
        "ln_f.bias": (8,),
    }


def test_decay_is_for_matrices():
    for p in small().parameters:
        assert p.decay == (len(p.shape) == 2)


def test_initial_spread():
    model = bound(build(Options(size="tiny"), text(128, 256)))
    for p in model.parameters:
        if p.name.endswith("c_proj.weight"):
            assert p.value.std() == pytest.approx(0.02 / np.sqrt(8), rel=0.03)
        elif len(p.shape) == 2:
            assert p.value.std() == pytest.approx(0.02, rel=0.03)
        else:
            assert (p.value == (1 if ".ln_" in p.name or "ln_f" in p.name else 0)).all() or "bias" in p.name
    x, y = np.random.default_rng(0).integers(0, 256, (2, 2, 128)).astype(np.int32)
    assert model.evaluate(x, y)[0] / 2 == pytest.approx(np.log(256), rel=0.02)


def test_options_override_the_preset():
    model = build(Options(size="small", layers=1, vocabulary=300), text(64, 256))
    assert {p.name: p.shape for p in model.parameters}["wte.weight"] == (300, 384)
    assert "h.1.ln_1.weight" not in {p.name for p in model.parameters}


@pytest.mark.parametrize(
    ("options", "schema", "message"),
    [
        ({"width": 130, "heads": 4}, text(), "--width 130 is not divisible by --heads 4"),
        ({"vocabulary": 100}, text(10, 256), "token ids up to 255, but --vocabulary 100"),
        ({"context": 8}, text(10), "sequences of 10 tokens, but --context 8"),
        ({}, SimpleNamespace(kind="classes", inputs=(64,), outputs=10), "kind is 'classes'"),
    ],
)
def test_what_does_not_fit_is_one_line(options, schema, message):
    with pytest.raises(UserError, match=message) as caught:
        build(Options(**options), schema)
    assert "\n" not in str(caught.value)


def test_it_learns():
    model, (x, y) = small(np.float32), batch()
    first = model.gradients(x, y, 1 / 3) / 3
    for _ in range(60):
        loss = model.gradients(x, y, 1 / 3) / 3
        model.params -= 0.5 * model.grads
    assert first == pytest.approx(np.log(20), rel=0.02) and loss < 0.9 * first


def test_generating():
    model = small()
    model.params *= 5
    draw = lambda seed, **o: generate(model, [1, 2, 3], 30, rng=np.random.default_rng(seed), **o)  # noqa: E731
    ids = draw(0)
    assert len(ids) == 30 and set(ids) <= set(range(20))
    assert ids == draw(0) and ids != draw(1)
    assert draw(0, temperature=0) == draw(1, temperature=0) == draw(2, top_k=1)
    assert set(draw(0, vocabulary=2)) <= {0, 1}


def test_generating_the_likeliest_agrees_with_prediction():
    """Also past the context, where the window slides, and with the filling on the right."""
    model = small()
    model.params *= 5
    ids = [1, 2, 3, *generate(model, [1, 2, 3], 15, temperature=0)]
    for end in range(3, 18):
        window = np.array([ids[max(0, end - 12) : end]], np.int32)
        assert model.predict(window)[0, -1].argmax() == ids[end]


def test_an_empty_prompt_is_refused():
    with pytest.raises(UserError, match="prompt is empty"):
        generate(small(), [], 3)

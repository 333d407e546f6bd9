"""The whole GPT against PyTorch autograd, where PyTorch is installed: same weights, same batch, same gradients."""

from types import SimpleNamespace

import numpy as np
import pytest

from mpidp.models.gpt import Options, build
from tests.nn.gradcheck import bound

torch = pytest.importorskip("torch")
functional = torch.nn.functional


def torch_loss(w, ids, targets, layers, heads):
    """GPT-2's mean loss, written with PyTorch's own operations on tensors of GPT-2's names."""

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    def dense(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    def split(t):
        return t.reshape(*t.shape[:2], heads, -1).transpose(1, 2)

    x = w["wte.weight"][ids] + w["wpe.weight"][: ids.shape[1]]
    for i in range(layers):
        q, k, v = (split(t) for t in dense(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").chunk(3, -1))
        o = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + dense(o.transpose(1, 2).reshape(x.shape), f"h.{i}.attn.c_proj")
        hidden = functional.gelu(dense(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"), approximate="tanh")
        x = x + dense(hidden, f"h.{i}.mlp.c_proj")
    return functional.cross_entropy((norm(x, "ln_f") @ w["wte.weight"].T).flatten(0, 1), targets.flatten())


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-10)])
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_gpt(dtype, tolerance, spread):
    layers, heads = 3, 4
    schema = SimpleNamespace(kind="tokens", inputs=(100,), outputs=50)
    model = bound(build(Options(layers=layers, heads=heads, width=32, context=110), schema, dtype))
    for p in model.parameters:
        if len(p.shape) == 2:
            p.value *= spread
    ids, targets = np.random.default_rng(0).integers(0, 50, (2, 5, 100)).astype(np.int32)
    loss = model.gradients(ids, targets, 1 / 5) / 5
    w = {p.name: torch.tensor(p.value, requires_grad=True) for p in model.parameters}
    expected = torch_loss(w, torch.tensor(ids).long(), torch.tensor(targets).long(), layers, heads)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=tolerance)
    for p in model.parameters:
        gradient = w[p.name].grad.numpy()
        np.testing.assert_allclose(
            p.grad, gradient, rtol=0, atol=tolerance * np.abs(gradient).max(), err_msg=p.name
        )

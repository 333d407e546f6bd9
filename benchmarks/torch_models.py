"""The benchmark's models as one writes them in PyTorch; `forward(x, y)` is the mean loss of the batch.

Parameters have mpidp's names, so that `load` can carry mpidp's initial values over.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.c_attn(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(batch, tokens, width))


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(functional.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.ln_2, self.mlp = nn.LayerNorm(width), FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, weights: dict[str, np.ndarray], heads: int):
        super().__init__()
        vocabulary, width = weights["wte.weight"].shape
        context = len(weights["wpe.weight"])
        layers = sum(name.endswith(".ln_1.weight") for name in weights)
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.h = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.wte(x) + self.wpe.weight[: x.shape[1]]
        for block in self.h:
            h = block(h)
        z = functional.linear(self.ln_f(h), self.wte.weight)
        return functional.cross_entropy(z.flatten(0, 1), y.flatten())


class MLP(nn.Module):
    def __init__(self, weights: dict[str, np.ndarray]):
        super().__init__()
        shapes = [array.shape for name, array in weights.items() if name.endswith("weight")]
        self.layers = nn.ModuleList(nn.Linear(*shape) for shape in shapes)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        return functional.cross_entropy(self.layers[-1](x), y)


class CNN(nn.Module):
    """As in mpidp, ReLU comes after the maxima: the same values from a quarter of the work."""

    def __init__(self, weights: dict[str, np.ndarray]):
        super().__init__()
        of = [(name, array.shape) for name, array in weights.items() if name.endswith("weight")]
        self.conv = nn.ModuleList(nn.Conv2d(*s[2:], s[0], padding=1) for n, s in of if n.startswith("conv"))
        self.dense = nn.ModuleList(nn.Linear(*s) for n, s in of if n.startswith("dense"))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        for conv in self.conv:
            x = functional.relu(functional.max_pool2d(conv(x), 2))
        x = x.flatten(1)
        for layer in self.dense[:-1]:
            x = functional.relu(layer(x))
        return functional.cross_entropy(self.dense[-1](x), y)


class LinearRegression(nn.Linear):
    def __init__(self, weights: dict[str, np.ndarray]):
        super().__init__(*weights["weight"].shape)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return functional.mse_loss(super().forward(x), y)


def build(task: dict[str, Any], weights: dict[str, np.ndarray]) -> nn.Module:
    """The model of the task with these initial values."""
    if task["model"] == "gpt":
        model: nn.Module = GPT(weights, task["heads"])
    else:
        model = {"mlp": MLP, "cnn": CNN, "linear": LinearRegression}[task["model"]](weights)
    load(model, weights)
    return model


def load(model: nn.Module, weights: dict[str, np.ndarray]) -> None:
    """Write mpidp's values: its matrices are (in, out), its kernels (rows, columns, in, out), its images NHWC."""
    named = dict(model.named_parameters())
    if named.keys() != weights.keys():
        raise ValueError(f"parameters differ: {sorted(named.keys() ^ weights.keys())}")
    for name, array in weights.items():
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        elif array.ndim == 2 and not name.startswith(("wte", "wpe")):
            if name == "dense.0.weight":
                channels = model.conv[-1].out_channels
                side = int((len(array) // channels) ** 0.5)
                images = array.reshape(side, side, channels, -1).transpose(2, 0, 1, 3)
                array = images.reshape(array.shape)
            array = array.T
        with torch.no_grad():
            named[name].copy_(torch.from_numpy(np.ascontiguousarray(array)))

"""Each kernel as its formula, in textbook NumPy: what the tuned kernels are tested against."""

import numpy as np

GELU_A = np.sqrt(2.0 / np.pi)
GELU_B = 0.044715


def layer_norm(x, gain, bias, eps):
    """y = gain · x̂ + bias with x̂ = (x - mean) / √(var + eps) over the last axis; returns (y, x̂, 1/√(var + eps))."""
    centred = x - x.mean(-1, keepdims=True)
    rstd = 1.0 / np.sqrt((centred**2).mean(-1) + eps)
    xhat = centred * rstd[..., None]
    return gain * xhat + bias, xhat, rstd


def layer_norm_backward(dy, xhat, rstd, gain):
    """dx = rstd · (g - mean(g) - x̂ · mean(g · x̂)) with g = gain · dy; returns (dx, dgain, dbias)."""
    g = gain * dy
    dx = rstd[..., None] * (g - g.mean(-1, keepdims=True) - xhat * (g * xhat).mean(-1, keepdims=True))
    return dx, (dy * xhat).sum(0), dy.sum(0)


def gelu(x):
    """y = ½ x (1 + tanh u), u = √(2/π) (x + 0.044715 x³); returns (y, dy/dx)."""
    t = np.tanh(GELU_A * (x + GELU_B * x**3))
    slope = 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * GELU_A * (1 + 3 * GELU_B * x**2)
    return 0.5 * x * (1 + t), slope


def softmax_cross_entropy(z, y):
    """loss_i = log Σ_j exp(z_ij) - z_i,y_i; returns (losses, d(Σ_i loss_i)/dz = softmax(z) - onehot(y))."""
    rows = np.arange(len(z))
    shifted = z - z.max(-1, keepdims=True)
    p = np.exp(shifted)
    total = p.sum(-1)
    gradient = p / total[:, None]
    gradient[rows, y] -= 1
    return np.log(total) - shifted[rows, y], gradient


def embedding_gradient(ids, dy, rows):
    """dW[v] = Σ of dy over the places where ids = v; dW is (rows, C)."""
    out = np.zeros((rows, dy.shape[-1]), dy.dtype)
    np.add.at(out, ids, dy)
    return out


def attention(q, k, v):
    """O = softmax(q kᵀ / √D, no key later than its query) v, for q, k, v of shape (B, H, T, D)."""
    tokens = q.shape[-2]
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) @ v


def attention_backward(q, k, v, do):
    """(dq, dk, dv) by dS = P ∘ (dP - Σ_j P ∘ dP), dP = dO vᵀ, P the softmax of the scores S."""
    tokens, depth = q.shape[-2:]
    scores = np.where(np.tri(tokens, dtype=bool), q @ k.swapaxes(-1, -2) / np.sqrt(depth), -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = do @ v.swapaxes(-1, -2)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) / np.sqrt(depth)
    return ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ do


def dropout_mask(multipliers, offsets, count, p):
    """(B, count) of 0 with probability p, else 1/(1-p): a hash of the element's number and its sample's two keys.

    x = number · multiplier + offset mod 2³², then the integer hash "lowbias32" (C. Wellons, hash-prospector, 2018).
    """
    x = np.arange(count, dtype=np.uint32) * multipliers[:, None] + offsets[:, None]
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    x = x ^ (x >> np.uint32(16))
    return np.where(x < round(p * 2**32), 0.0, 1.0 / (1.0 - p))

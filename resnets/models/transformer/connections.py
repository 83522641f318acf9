"""Residual connections of a transformer, one class for each kind.

A connection contains its sublayer F and maps the state of the residual stream to the next state.
The state is (B, T, C); with several streams (B, T, n, C); with attention residuals the outputs of
all earlier sublayers, (B, T, l, C). Parameters per sublayer for width C and n streams: a norm has 2
C, "rezero" 1 instead, "hyper" additionally 2 C + (C + n) (n + 2) + 2, "mhc" n (n + 2) (n C + 1) +
3, and "attention" 2 C.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.config import TransformerSpec
from resnets.models.layers import Scale

SINKHORN_STEPS = 20  # Xie et al. 2025, section 4.2
DYNAMIC_SCALE = 0.01  # initial factor of input-dependent weights (Zhu et al. 2024, section 3.1)


class Plain(nn.Module):
    """`F(norm(x))`: no shortcut."""

    def __init__(self, spec: TransformerSpec, layer: nn.Module, number: int) -> None:
        super().__init__()
        self.layer, self.dropout = layer, nn.Dropout(spec.dropout)
        self.norm: nn.Module = nn.LayerNorm(spec.width)

    def branch(self, x: Tensor) -> Tensor:
        """Return `F(x)`: (B, T, C) to the same shape."""
        out: Tensor = self.dropout(self.layer(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to the same shape."""
        return self.branch(self.norm(x))

    @staticmethod
    def expand(x: Tensor, spec: TransformerSpec) -> Tensor:
        """Return the initial state of the stream for the embedding `x` (B, T, C)."""
        return x


class PreNorm(Plain):
    """`x + F(norm(x))` (Radford et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to the same shape."""
        return x + self.branch(self.norm(x))


class PostNorm(Plain):
    """`norm(alpha x + F(x))`: alpha is 1 (Vaswani et al. 2017), or that of DeepNorm.

    DeepNorm for decoders with M blocks: alpha = (2 M)^(1/4) (Wang et al. 2022, Fig. 2).
    """

    def __init__(self, spec: TransformerSpec, layer: nn.Module, number: int) -> None:
        super().__init__(spec, layer, number)
        self.alpha = (2 * spec.depth) ** 0.25 if spec.residual == "deepnorm" else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to the same shape."""
        out: Tensor = self.norm(self.alpha * x + self.branch(x))
        return out


class ReZero(Plain):
    """`x + a*F(x)` without norm; `a` is a learned scalar, initially 0 (Bachlechner et al. 2021)."""

    def __init__(self, spec: TransformerSpec, layer: nn.Module, number: int) -> None:
        super().__init__(spec, layer, number)
        self.norm, self.scale = nn.Identity(), Scale(0.0, learned=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to the same shape."""
        return x + self.scale(self.branch(x))


class Hyper(Plain):
    """Dynamic hyper-connections (Zhu et al. 2024, sections 2 and 3): n streams, learned mixing.

    For streams H, F reads `read @ H`, and the next streams are `mix @ H + write F`. Each weight is
    a learned scalar plus `scale * tanh(norm(H) W)`. W is initially 0, and the scalars are such that
    the network is initially equal to the pre-norm one (equation 14).
    """

    def __init__(self, spec: TransformerSpec, layer: nn.Module, number: int) -> None:
        super().__init__(spec, layer, number)
        n, width = spec.streams, spec.width
        self.stream_norm = nn.LayerNorm(width)
        read = F.one_hot(torch.tensor(number % n), n).float()
        self.alpha = nn.Parameter(torch.cat([read[None], torch.eye(n)]))  # reading, then mixing
        self.beta = nn.Parameter(torch.ones(n))
        self.alpha_weight = nn.Parameter(torch.zeros(width, n + 1))
        self.beta_weight = nn.Parameter(torch.zeros(width, 1))
        self.alpha_scale = nn.Parameter(torch.tensor([DYNAMIC_SCALE]))
        self.beta_scale = nn.Parameter(torch.tensor([DYNAMIC_SCALE]))

    @staticmethod
    def expand(x: Tensor, spec: TransformerSpec) -> Tensor:
        """Return n copies of the embedding, (B, T, n, C)."""
        return x[:, :, None].expand(-1, -1, spec.streams, -1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, n, C) to the same shape."""
        normed = self.stream_norm(x)
        dynamic = (normed @ self.alpha_weight).tanh().transpose(-1, -2)  # (B, T, n + 1, n)
        mixed = (self.alpha + self.alpha_scale * dynamic) @ x
        write = self.beta + self.beta_scale * (normed @ self.beta_weight).tanh()[..., 0]
        y = self.branch(self.norm(mixed[:, :, 0]))
        return mixed[:, :, 1:] + write[..., None] * y[:, :, None]


class ManifoldHyper(Plain):
    """Hyper-connections with doubly stochastic mixing (Xie et al. 2025, mHC, section 4).

    Weights are linear in the RMS-normalized streams: `sigmoid` for reading, `2 sigmoid` for
    writing, and 20 Sinkhorn-Knopp iterations on `exp` for mixing. The paper does not specify the
    initial biases; here the initial weights are 1 / n for reading, 1 for writing, and near the
    identity for mixing.
    """

    def __init__(self, spec: TransformerSpec, layer: nn.Module, number: int) -> None:
        super().__init__(spec, layer, number)
        self.n = n = spec.streams
        self.stream_norm = nn.RMSNorm(n * spec.width, elementwise_affine=False)
        self.weight = nn.Linear(n * spec.width, 2 * n + n * n, bias=False)
        self.scale = nn.Parameter(torch.full((3,), DYNAMIC_SCALE))
        self.read = nn.Parameter(torch.full((n,), -math.log(n - 1) if n > 1 else 4.0))
        self.write = nn.Parameter(torch.zeros(n))
        self.mix = nn.Parameter(4 * torch.eye(n))

    expand = Hyper.expand

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, n, C) to the same shape."""
        n = self.n
        read, write, mix = self.weight(self.stream_norm(x.flatten(2))).split([n, n, n * n], -1)
        read = (self.scale[0] * read + self.read).sigmoid()
        write = 2 * (self.scale[1] * write + self.write).sigmoid()
        mix = sinkhorn(self.scale[2] * mix.unflatten(-1, (n, n)) + self.mix)
        y = self.branch(self.norm((read[..., None, :] @ x)[:, :, 0]))
        return mix @ x + write[..., None] * y[:, :, None]


def sinkhorn(logits: Tensor) -> Tensor:
    """Return `exp(logits)` (..., n, n) after 20 Sinkhorn-Knopp iterations (columns, then rows)."""
    matrix = (logits - logits.amax((-1, -2), keepdim=True)).exp()
    for _ in range(SINKHORN_STEPS):
        matrix = matrix / matrix.sum(-2, keepdim=True)
        matrix = matrix / matrix.sum(-1, keepdim=True)
    return matrix


class DepthAttention(nn.Module):
    """Mean of earlier outputs (B, T, l, C), weighted by the softmax of `query . RMSNorm(output)`.

    The query is learned and initially 0: equal weights (Kimi Team 2026, full AttnRes).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key_norm = nn.Parameter(torch.zeros(width)), nn.RMSNorm(width)

    def forward(self, outputs: Tensor) -> Tensor:
        """(B, T, l, C) -> (B, T, C)."""
        weights = (self.key_norm(outputs) @ self.query).softmax(-1)
        return (weights[..., None, :] @ outputs)[:, :, 0]


class AttentionResidual(Plain):
    """`F(norm(h))`, h a weighted mean of all earlier outputs; the result is appended to them."""

    def __init__(self, spec: TransformerSpec, layer: nn.Module, number: int) -> None:
        super().__init__(spec, layer, number)
        self.read = DepthAttention(spec.width)

    @staticmethod
    def expand(x: Tensor, spec: TransformerSpec) -> Tensor:
        """Return the embedding as the first output, (B, T, 1, C)."""
        return x[:, :, None]

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, l, C) -> (B, T, l + 1, C)."""
        return torch.cat([x, self.branch(self.norm(self.read(x)))[:, :, None]], 2)


CONNECTIONS: dict[str, type[Plain]] = {
    "none": Plain,
    "pre-norm": PreNorm,
    "post-norm": PostNorm,
    "deepnorm": PostNorm,
    "rezero": ReZero,
    "hyper": Hyper,
    "mhc": ManifoldHyper,
    "attention": AttentionResidual,
}

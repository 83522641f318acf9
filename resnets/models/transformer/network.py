"""A decoder-only transformer; the kind of residual connection is a field of its spec.

Read from top to bottom: the two sublayers, then the network. The connections are in
`models.transformer.connections`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.config import TransformerSpec
from resnets.models.transformer.connections import CONNECTIONS, DepthAttention


class Attention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.qkv = nn.Linear(spec.width, 3 * spec.width)
        self.out = nn.Linear(spec.width, spec.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to the same shape."""
        batch, length, width = x.shape
        split = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    """Two linear layers with GELU; the hidden layer is four times as wide."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.fc1 = nn.Linear(spec.width, 4 * spec.width)
        self.fc2 = nn.Linear(4 * spec.width, spec.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to the same shape."""
        return self.fc2(F.gelu(self.fc1(x)))


class Transformer(nn.Module):
    """Character and position embeddings, sublayers, a norm and a linear head.

    Post-norm, DeepNorm and ReZero have no norm before the head, as in their papers. Linear layers
    are initialized with Xavier normal (Glorot and Bengio 2010), embeddings with standard deviation
    0.02. For DeepNorm, the value, output and feed-forward layers are scaled by (8 depth)^(-1/4)
    (Wang et al. 2022, Fig. 2). Biases are initially 0.
    """

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.spec, self.origin = spec, "random initialization"
        self.classes: tuple[str, ...] = ()
        self.recipe: Any = None
        self.embedding = nn.Embedding(spec.vocabulary, spec.width)
        self.position = nn.Parameter(torch.empty(spec.context, spec.width))
        self.dropout = nn.Dropout(spec.dropout)
        connection = CONNECTIONS[spec.residual]
        kinds = [Attention, FeedForward] * spec.depth
        self.sublayers = nn.ModuleList(
            connection(spec, kind(spec), number) for number, kind in enumerate(kinds)
        )
        self.read = DepthAttention(spec.width) if spec.residual == "attention" else None
        ends_with_norm = spec.residual in ("post-norm", "deepnorm", "rezero")
        self.norm: nn.Module = nn.Identity() if ends_with_norm else nn.LayerNorm(spec.width)
        self.head = nn.Linear(spec.width, spec.vocabulary)
        self._init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, T, K) of the character after each in `x` (B, T), T <= `context`."""
        *_, state = self.states(x)
        logits: Tensor = self.head(self.norm(self.collapse(state)))
        return logits

    def states(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the stream's state after the embedding of `x` (B, T) and after each sublayer."""
        embedded = self.dropout(self.embedding(x) + self.position[: x.shape[1]])
        state = CONNECTIONS[self.spec.residual].expand(embedded, self.spec)
        yield state
        for sublayer in self.sublayers:
            state = sublayer(state)
            yield state

    def collapse(self, state: Tensor) -> Tensor:
        """Return (B, T, C) for a state of the stream; several streams are summed."""
        if self.read is not None:
            out: Tensor = self.read(state)
            return out
        return state.sum(2) if state.ndim == 4 else state

    def _init_weights(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.position, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if self.spec.residual != "deepnorm":
            return
        beta, width = (8 * self.spec.depth) ** -0.25, self.spec.width
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, Attention):
                    layer.qkv.weight[2 * width :].mul_(beta)
                    layer.out.weight.mul_(beta)
                elif isinstance(layer, FeedForward):
                    layer.fc1.weight.mul_(beta)
                    layer.fc2.weight.mul_(beta)

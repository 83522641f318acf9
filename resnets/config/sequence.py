"""Fields of the tasks "text" and "signals": the transformer, and how a file of signals is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resnets.config.ranges import check_ranges
from resnets.utils.errors import ConfigError

Residual = Literal[
    "none", "pre-norm", "post-norm", "rezero", "deepnorm", "hyper", "mhc", "attention"
]
MIXED = ("hyper", "mhc")  # forms with several streams


@dataclass(frozen=True, kw_only=True)
class TransformerSpec:
    """Decoder-only transformer (Vaswani et al. 2017), of task "text".

    Attributes:
        name: Name shown in reports; does not affect the model.
        depth: [blocks] Blocks, each of two sublayers: causal self-attention, and a feed-forward
            network four times as wide with GELU.
        width: [channels] Width of the residual stream.
        heads: [heads] Heads of the attention; they divide `width`.
        context: [characters] Context length: the number of characters that a prediction may depend
            on.
        residual: How a sublayer F changes the stream x. "none" is the plain network, F(norm(x));
            "pre-norm" x + F(norm(x)) (Radford et al. 2019, GPT-2); "post-norm" norm(x + F(x))
            (Vaswani et al. 2017); "rezero" x + a*F(x) with a learned scalar a, initialized to
            0, and no norm (Bachlechner et al. 2021); "deepnorm" norm(a x + F(x)) with
            a = (2 depth)^(1/4) and smaller initial weights (Wang et al. 2022); "hyper" several
            streams, whose mixing is learned and depends on the input (Zhu et al. 2024, dynamic
            hyper-connections); "mhc" the same with doubly stochastic mixing (Xie et al. 2025);
            "attention" lets each sublayer read a weighted mean of all earlier outputs (Kimi Team
            2026, attention residuals).
        streams: [streams] Residual streams of "hyper" and "mhc" (4 in their papers).
        dropout: [probability] Dropout after the embedding and after each sublayer.
        vocabulary: [characters] Number of distinct characters of the text. Training sets it from
            the data.
    """

    name: str = "transformer4"
    depth: int = 4
    width: int = 64
    heads: int = 4
    context: int = 64
    residual: Residual = "pre-norm"
    streams: int = 4
    dropout: float = 0.0
    vocabulary: int = 2

    @property
    def is_residual(self) -> bool:
        """Whether sublayers have a shortcut."""
        return self.residual != "none"

    def __post_init__(self) -> None:
        counts = ("depth", "width", "heads", "context", "streams", "vocabulary")
        check_ranges(
            self, "transformer.", {**dict.fromkeys(counts, "[1, inf)"), "dropout": "[0, 1)"}
        )
        if self.width % self.heads:
            raise ConfigError(
                f"transformer.heads: width {self.width} is not divisible by {self.heads} heads"
            )


@dataclass(frozen=True, kw_only=True)
class SignalSpec:
    """Signals of task "signals": what the rows and columns of a CSV file are.

    Attributes:
        window: [steps] Length of the windows that a recording is cut into: each row is a time step,
            each column but the label a channel, and a window has one label throughout. 0: each row
            is a whole signal of one channel.
        stride: [steps] Distance between the starts of consecutive windows; 0 is `window`, so that
            they do not overlap. Windows of different splits never overlap.
        label: Column of the label: a name in the header, or "last".
    """

    window: int = 0
    stride: int = 0
    label: str = "last"

    def __post_init__(self) -> None:
        check_ranges(self, "signal.", {"window": "[0, inf)", "stride": "[0, inf)"})
        if self.stride and not self.window:
            raise ConfigError(
                "signal.stride: needs signal.window; without it each row is a whole signal"
            )

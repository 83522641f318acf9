"""How a file of signals is read."""

from __future__ import annotations

from dataclasses import dataclass

from resnets.utils.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SignalSpec:
    """Signals of task "signals": what the rows and columns of a CSV file are.

    Attributes:
        window: [steps] Length of the windows that a recording is cut into: each row is a time step,
            each column but the label a channel, and a window has one label throughout. 0: each row
            is a whole signal of one channel.
        stride: [steps] From the start of a window to that of the next; 0 is `window`, so that none
            overlap. Windows of two splits never do.
        label: Column of the label: a name in the header, or "last".
    """

    window: int = 0
    stride: int = 0
    label: str = "last"

    def __post_init__(self) -> None:
        if self.window < 0 or self.stride < 0:
            raise ConfigError("signal.window, signal.stride: must not be negative")
        if self.stride and not self.window:
            raise ConfigError("signal.stride: needs signal.window; rows are whole signals")

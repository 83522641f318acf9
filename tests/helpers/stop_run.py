"""Stop a run during a step."""

import signal

import pytest

from resnets.train.step import TrainStep


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Have the signal of a shutdown arrive during step number `step`."""
    real = TrainStep.__call__

    def step_and_stop(self: TrainStep, batch: object) -> None:
        real(self, batch)
        if self.state.step == step:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TrainStep, "__call__", step_and_stop)

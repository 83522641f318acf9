"""`eval.patience`: stops with a message, keeps the best weights, counts across a resume."""

import pytest
from stop_run import stop_after

from resnets.config import ConfigError, EvalSpec, Recipe, replace_fields
from resnets.recipes import recipe
from resnets.train import loop
from resnets.train.guards.interrupt import Interrupted
from resnets.train.log.run_log import read_rows
from resnets.train.run import run_training
from resnets.weights.checkpoint.format import LAST, read_checkpoint


def plan(**changes: object) -> Recipe:
    """A short run of which each step is saved."""
    fields = {
        "duration": "40it",
        "batch_size": 8,
        "precision": "float32",
        "eval.every": "3it",
        "log_every": "2it",
        "checkpoint_every": "1it",
        "eval.patience": 2,
    }
    return replace_fields(recipe("digits", "cifar-resnet8"), fields | changes)


@pytest.fixture
def frozen_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation errors that rise, fall again and stay (norms would move them without a rate)."""
    real, errors = loop._evaluate, iter([50.0, 55.0, 40.0, *[45.0] * 90])

    def measure(state, plan, examples, evaluate, *rest):
        def pretend(model):
            figures = evaluate(model)
            figures["val"]["top1_error"] = next(errors)
            return figures

        real(state, plan, examples, pretend, *rest)

    monkeypatch.setattr(loop, "_evaluate", measure)


def steps(folder, kind):
    return [row["step"] for row in read_rows(folder) if row["kind"] == kind]


def test_training_stops_when_patience_is_exhausted_and_reports_it(tmp_path, frozen_error, capsys):
    out = tmp_path / "run"
    result = run_training(plan(), out, device="cpu")
    assert steps(out, "val") == [3, 6, 9, 12, 15]
    assert read_checkpoint(out / "checkpoints" / LAST).meta["step"] == 15
    assert read_checkpoint(out / "checkpoints" / "best.safetensors").meta["step"] == 9
    assert "best.safetensors (step 9" in result["test"]["protocol"]
    output = capsys.readouterr().err
    assert "step 15: eval.patience=2" in output
    assert "40.00%" in output


def test_resuming_what_stopped_early_changes_nothing(tmp_path, frozen_error):
    out = tmp_path / "run"
    run_training(plan(), out, device="cpu", quiet=True)
    before = (out / "checkpoints" / LAST).read_bytes()
    run_training(None, out, device="cpu", quiet=True)
    assert (out / "checkpoints" / LAST).read_bytes() == before


@pytest.mark.parametrize("stop_at", [7, 13])  # after one evaluation in vain
def test_a_resumed_run_stops_where_the_whole_one_does(tmp_path, frozen_error, monkeypatch, stop_at):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, stop_at)
        with pytest.raises(Interrupted):
            run_training(plan(), out, device="cpu", quiet=True)
    run_training(None, out, device="cpu", quiet=True)
    assert steps(out, "val") == [3, 6, 9, 12, 15]


def test_patience_needs_a_validation_split_and_a_count(tmp_path):
    with pytest.raises(ConfigError, match=r"eval\.patience"):
        run_training(plan(**{"data.val_fraction": 0.0}), tmp_path / "run", device="cpu", quiet=True)
    assert not (tmp_path / "run").exists()
    unread = {"data.val_fraction": 0.0, "eval.patience": None, "schedule.kind": "plateau"}
    with pytest.raises(ConfigError, match=r"schedule\.kind: 'plateau' needs the validation error"):
        run_training(plan(**unread), tmp_path / "run", device="cpu", quiet=True)
    with pytest.raises(ConfigError, match=r"eval\.patience.*0"):
        EvalSpec(patience=0)

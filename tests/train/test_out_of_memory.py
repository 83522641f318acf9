"""Each part of a run that does not fit into memory is named, and the run can be resumed."""

import pytest
import torch

import resnets
from resnets.train import run
from resnets.train.tasks.classification import ClassificationTask
from resnets.utils.errors import OutOfMemory

TRAINING = {"model": "cifar-resnet8", "iterations": 2, "quiet": True, "device": "cpu"}


def fails(*_args: object, **_options: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize(
    ("owner", "name", "part"),
    [
        (run, "_place_model", "the model"),
        (ClassificationTask, "stream", "the training images"),
        (run, "new_state", "momentum"),
        (ClassificationTask, "evaluator", "the evaluation data"),
        (run, "find_start", "the data, weights and checkpoints"),
        (ClassificationTask, "evaluate_checkpoint", "the evaluation of the final weights"),
    ],
)
def test_what_does_not_fit_is_named(owner, name, part, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, fails)
        with pytest.raises(OutOfMemory, match=f"out of memory: {part}"):
            resnets.train("digits", out=tmp_path / "run", **TRAINING)
    resumed = resnets.train("digits", out=tmp_path / "run", resume=True, **TRAINING)
    assert resumed.result["train"]["examples"]


def test_an_evaluation_and_a_restored_state_that_do_not_fit_are_named(tmp_path, monkeypatch):
    fields = {"out": tmp_path / "run", "eval": {"every": "1it"}, "checkpoint_every": "1it"}
    with monkeypatch.context() as patched:
        patched.setattr(ClassificationTask, "evaluator", lambda *_: fails)
        with pytest.raises(OutOfMemory, match="out of memory: the evaluation at step 1"):
            resnets.train("digits", **fields, **TRAINING)
    resnets.train("digits", **fields, resume=True, **TRAINING)
    with monkeypatch.context() as patched:
        patched.setattr(run, "restore_state", fails)
        with pytest.raises(OutOfMemory, match="out of memory: the state of the checkpoint"):
            resnets.train(out=tmp_path / "run", resume=True, iterations=3, quiet=True)

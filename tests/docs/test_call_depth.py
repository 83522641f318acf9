"""The frames from the command line to the optimizer step are those that the docs list."""

import re
import traceback
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

import resnets
from resnets.cli.main import main

PACKAGE = str(Path(resnets.__file__).parent)
PAGE = Path(__file__).parents[2] / "docs" / "how-data-flows.md"


def test_frames_to_the_optimizer_step(tmp_path: Path) -> None:
    frames: list[str] = []

    def record(optimizer: torch.optim.Optimizer, *_: object) -> None:
        stack = traceback.extract_stack()
        frames[:] = [frame.name for frame in stack if frame.filename.startswith(PACKAGE)]

    hook = register_optimizer_step_pre_hook(record)
    try:
        out = str(tmp_path / "run")
        assert (
            main(["train", "digits", "--model", "cifar-resnet8", "--iterations", "1", "--out", out])
            == 0
        )
    finally:
        hook.remove()
    paragraph = re.search(r"^From the command line .*?\n\n", PAGE.read_text(), re.M | re.S)
    assert paragraph is not None
    listed = re.findall(r"`(\w+)`", paragraph[0].replace("(of `TrainStep`)", ""))
    assert listed == frames

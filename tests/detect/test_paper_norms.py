"""Appendix A of the paper: averages over the classifier's training set, fixed in the detector."""

from pathlib import Path

import pytest
import torch
from detect_models import NET
from detect_sets import write_coco
from digit_folders import write_tree

import resnets
from resnets.cli.main import main
from resnets.config import DataSpec, Recipe
from resnets.detect.models.build import load_detection_model
from resnets.train.run import run_training

DETECTOR = {
    "model.depths": "[1,1,1,1]",
    "model.widths": "[8,12,16,20]",
    "model.stem_width": "8",
    "batch_size": "2",
    "detect.train_sizes": "[48,64]",
    "detect.max_size": "100",
    "detect.proposals": "[40,20]",
}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps on images of digits."""
    folder = tmp_path_factory.mktemp("classifier")
    data = DataSpec(source=str(write_tree(folder / "digits")), size=32)
    recipe = Recipe(model=NET, data=data, batch_size=8, duration="4it", ema_decay=0.0)
    run_training(recipe, folder / "run", device="cpu", quiet=True)
    return folder / "run"


def test_a_detector_keeps_the_recomputed_statistics(classifier: Path, tmp_path: Path) -> None:
    fixed, out = tmp_path / "fixed", tmp_path / "detector"
    assert main(["recompute-norm", str(classifier), "--out", str(fixed), "--device", "cpu"]) == 0
    for split in ("train", "val"):
        write_coco(tmp_path / "coco", split, [(80, 64), (64, 80)], seed=len(split))
    settings = DETECTOR | {"weights": str(fixed)}
    sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    words = ["--data", str(tmp_path / "coco"), "--iterations", "2", "--device", "cpu", *sets]
    assert main(["train", "detect-paper", *words, "--model", "resnet18-c4", "--out", str(out)]) == 0
    moving, average = (resnets.load(each).state_dict() for each in (classifier, fixed))
    trained = load_detection_model(out).net.state_dict()
    norms = {name for name in average if "norm" in name and "num_batches" not in name}
    convolutions = {name for name, each in average.items() if each.ndim == 4}
    assert norms
    assert convolutions
    for name in norms:
        assert torch.equal(trained[name], average[name]), name
        if "running" in name:
            assert not torch.equal(average[name], moving[name]), name
    for name in convolutions:
        assert not torch.equal(trained[name], average[name]), name

"""Distillation: the teacher sees the same batch, and its probabilities are targets."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digit_folders import recipe, write_tree
from torch.nn import functional as F
from torch.testing import assert_close

from resnets.api.recipe import choose_recipe
from resnets.config import AugmentSpec, ConfigError, DistillSpec, Preprocess
from resnets.data.batch import Batch
from resnets.data.transforms.preprocess import Preprocessor
from resnets.train.log.run_log import read_rows
from resnets.train.loss import classification_loss
from resnets.train.run import run_training
from resnets.train.tasks.distill import Teacher, distillation_loss
from resnets.weights.checkpoint.format import LAST
from resnets.weights.load import load_classifier


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on three digits."""
    root = tmp_path_factory.mktemp("teacher")
    run_training(recipe(write_tree(root / "set"), "8it"), root / "run", device="cpu", quiet=True)
    return root / "run"


def test_the_loss_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    batch = Batch(torch.zeros(6, 3, 2, 2), torch.tensor([0, 1, 2, 3, 0, 1]), torch.arange(6))
    spec = DistillSpec(teacher="x", temperature=3.0, weight=0.7)
    losses = distillation_loss(spec, classification_loss(), lambda _: teacher)(
        lambda _: student, batch
    )
    soft = (teacher / 3).softmax(1)
    cross = -(soft * (student / 3).log_softmax(1)).sum(1).mean()
    entropy = -(soft * soft.log()).sum(1).mean()
    expected = 0.3 * F.cross_entropy(student, batch.targets) + 0.7 * 9 * (cross - entropy)
    assert_close(losses.total, expected)
    assert_close(losses.sums["distill_loss"] / 6, 9 * (cross - entropy).detach())
    losses.total.backward()
    hard = F.cross_entropy(student.detach().requires_grad_(), batch.targets)
    assert student.grad is not None
    assert hard.item() > 0


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_the_teacher_gets_the_same_pixels(trained: Path, order: str) -> None:
    model = load_classifier(trained)
    pixels = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    student = Preprocessor(
        Preprocess(
            size=16, resize=16, mean=(0.1, 0.5, 0.3), std=(0.2, 0.9, 0.4), channel_order=order
        )
    )
    classes = model.classes[::-1]
    teacher = Teacher(str(trained), classes, student)
    with torch.no_grad():
        expected = model.eval()(model.preprocess.normalize(pixels)).flip(1)
    assert_close(teacher(student.normalize(pixels)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.ci
def test_a_run_learns_from_a_run(trained: Path, tmp_path: Path) -> None:
    tree = trained.parent / "set"
    plain = recipe(tree, "8it", augment=AugmentSpec(flip=True, mixup=0.2))
    chosen = replace(plain, distill=DistillSpec(teacher=str(trained)))
    run_training(chosen, tmp_path / "run", device="cpu", quiet=True)
    rows = [row for row in read_rows(tmp_path / "run") if row["kind"] == "train"]
    assert all(row["distill_loss"] > 0 for row in rows)
    teacher = Path(shutil.copytree(trained, tmp_path / "teacher"))
    half = replace(chosen, duration="4it", distill=DistillSpec(teacher=str(teacher)))
    run_training(half, tmp_path / "half", device="cpu", quiet=True)
    result = run_training(None, tmp_path / "half", duration="8it", device="cpu", quiet=True)
    again = read_rows(tmp_path / "half")
    assert [row["step"] for row in again if row["kind"] == "train"][-1] == 8
    assert not any("distill.teacher" in entry["note"] for entry in result["history"])
    run_training(None, teacher, duration="12it", device="cpu", quiet=True)  # trained on meanwhile
    for file in (teacher / "checkpoints").iterdir():
        if file.name != LAST:
            file.unlink()
    result = run_training(None, tmp_path / "half", duration="12it", device="cpu", quiet=True)
    assert any("distill.teacher" in entry["note"] for entry in result["history"])


def test_a_teacher_that_does_not_fit_is_refused(trained: Path, tmp_path: Path) -> None:
    student = Preprocessor(Preprocess(size=16, resize=16))
    with pytest.raises(ConfigError, match="lack"):
        Teacher(str(trained), ("digit0", "cat"), student)
    gray = Preprocessor(Preprocess(size=16, resize=16, channels=1, mean=(0.5,), std=(0.2,)))
    with pytest.raises(ConfigError, match="channels"):
        Teacher(str(trained), ("digit0",), gray)
    for changes in ({"temperature": 0}, {"weight": 1.5}):
        with pytest.raises(ConfigError, match="distill"):
            DistillSpec(**changes)
    with pytest.raises(ConfigError, match="distill"):
        replace(recipe(tmp_path), task="segment", distill=DistillSpec(teacher="x"))


def test_a_teacher_states_its_network(trained: Path, tmp_path: Path) -> None:
    model = load_classifier(trained)
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    with pytest.raises(ConfigError, match=r"distill\.teacher: .*plain\.pth"):
        Teacher(str(tmp_path / "plain.pth"), model.classes, model.preprocess)


def test_int8_fine_tuning_refuses_a_network_that_is_not_the_runs(trained: Path) -> None:
    fields = {"weights": str(trained)}
    own = load_classifier(trained).spec
    assert choose_recipe("qat", fields=fields).model == own
    with pytest.raises(ConfigError, match="--model resnet18"):
        choose_recipe("qat", model="resnet18", fields=fields)

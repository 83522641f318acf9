"""Measuring a model: modes, counting, views, protocol, JSON, and the figure."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from resnets.cli.evaluate import print_evaluation
from resnets.data import Batch
from resnets.evaluate import Evaluation, describe_protocol, evaluate_model
from resnets.evaluate.evaluation import evaluate_scores
from resnets.evaluate.figures.confusion import save_confusion_figure

CPU = torch.device("cpu")


class Brightest(nn.Module):
    """Logits are the mean of each of K planes; normalised in training mode only."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.frozen = nn.BatchNorm2d(planes).eval()
        self.norm = nn.BatchNorm2d(planes)
        self.grad_was_on = self.trained_while_measured = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.grad_was_on |= torch.is_grad_enabled()
        self.trained_while_measured |= self.training or self.norm.training
        return self.norm(self.frozen(x)).mean((2, 3))


def batches(planes: int, sizes: tuple[int, ...], wrong: int = 0) -> list[Batch]:
    """Images whose brightest plane is their class, but for the first `wrong`."""
    count = sum(sizes)
    targets = torch.arange(count) % planes
    images = torch.zeros(count, planes, 4, 4)
    images[torch.arange(count), targets] = 5.0
    targets = torch.where(torch.arange(count) < wrong, (targets + 1) % planes, targets)
    parts = (images.split(sizes), targets.split(sizes), torch.arange(count).split(sizes))
    return [Batch(*part) for part in zip(*parts, strict=True)]


def evaluate(model: nn.Module, data: list[Batch], planes: int, **options) -> Evaluation:
    classes = tuple(f"class {k}" for k in range(planes))
    fixed = {"protocol": "as told", "precision": "float32", "device": CPU}
    return evaluate_model(model, data, classes, **(fixed | options))


def test_each_example_counts_once_for_any_batches():
    result = evaluate(Brightest(6), batches(6, (5, 5, 2), wrong=3), 6)
    assert result.examples == 12
    assert result.top1_error == 25.0
    assert result.confusion.sum() == 12
    assert result.confusion[1, 0] == 1  # true class 1 was taken for 0


def test_model_measures_in_eval_mode_and_gets_each_mode_back():
    model = Brightest(3).train()
    model.frozen.eval()
    mean = model.norm.running_mean.clone()
    evaluate(model, batches(3, (4, 4)), 3)
    assert not model.trained_while_measured
    assert not model.grad_was_on
    assert torch.equal(model.norm.running_mean, mean)
    assert (model.training, model.norm.training, model.frozen.training) == (True, True, False)


def test_modes_come_back_after_a_failure():
    model = Brightest(3).train()

    def broken() -> Iterator[Batch]:
        yield from batches(3, (4,))
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        evaluate(model, broken(), 3)
    assert model.norm.training


def test_bfloat16_computes_in_bfloat16_and_counts_in_float32():
    seen = []

    class Head(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    model = nn.Sequential(nn.Flatten(), Head(48, 3))
    evaluate(model, batches(3, (4,)), 3, precision="bfloat16")
    evaluate(model, batches(3, (4,)), 3, precision="float32")
    assert seen == [torch.bfloat16, torch.float32]


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="no examples"):
        evaluate(Brightest(3), [], 3)


def test_json_holds_every_figure_and_stays_json_when_a_network_gives_nan():
    result = evaluate(Brightest(3), batches(3, (6,), wrong=1), 3).to_json()
    assert set(result) == {
        "top1_error", "loss", "calibration_error", "examples", "protocol", "per_class", "confusion",
        "balanced_error", "macro_f1", "majority_error", "majority_class", "top1_interval",
        "calibration_error_equal_mass",
    }  # fmt: skip
    assert set(result["per_class"][0]) == {"class", "examples", "precision", "recall", "f1"}
    assert json.loads(json.dumps(result, allow_nan=False)) == result

    class Diverged(Brightest):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * float("nan")

    broken = evaluate(Diverged(3), batches(3, (6,)), 3)
    assert json.loads(json.dumps(broken.to_json(), allow_nan=False))["loss"] is None


def test_protocol_is_one_sentence_with_views_size_precision_weights_and_data():
    text = describe_protocol(
        size=32,
        precision="bfloat16",
        weights="best.safetensors (step 12,000, averaged weights)",
        data="cifar10.tar.xz test, 10,000 images",
    )
    assert text == (
        "1 view, 32x32 px, bfloat16, best.safetensors (step 12,000, averaged weights), "
        "cifar10.tar.xz test, 10,000 images"
    )


def test_table_of_many_classes_shows_the_ten_worst(capsys):
    result = evaluate(Brightest(30), batches(30, (60,), wrong=1), 30)
    print_evaluation(result)
    out = capsys.readouterr().out
    assert "The 10 of 30 classes with the lowest F1" in out
    assert "class 0 " in out  # lost an example
    assert "class 1 " in out  # got it
    assert "class 29 " not in out
    assert "class 1 predicted as class 0: 1 image" in out
    assert "top-5 error" in out


@pytest.mark.parametrize("planes", [2, 10, 31, 300])
def test_figure_is_a_whole_png_with_a_colored_diagonal(planes: int, tmp_path: Path):
    result = evaluate(Brightest(planes), batches(planes, (planes * 2,), wrong=1), planes)
    save_confusion_figure(result, tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as image:
        image.load()
        width, height = image.size
        assert min(width, height) >= 700
        assert max(width, height) <= 3000
        blues = sum(n for n, (r, _, b) in image.convert("RGB").getcolors(1 << 24) if b > r + 60)
    assert blues > planes  # at least a pixel for each class on the diagonal
    assert [file.name for file in tmp_path.iterdir()] == ["confusion.png"]


def test_a_model_no_better_than_the_majority_class_is_warned_about():
    """Of 100 images 71 are of one class: 28 errors show nothing, 10 do."""
    targets = torch.tensor([0] * 71 + [1] * 29)

    def found(predicted: torch.Tensor) -> Evaluation:
        scores = [(torch.nn.functional.one_hot(predicted, 2).float(), targets)]
        return evaluate_scores(scores, ("ok", "rust"), protocol="", device=torch.device("cpu"))

    constant, better = torch.zeros_like(targets), targets.clone()
    constant[99] = 1
    better[:10] = 1
    assert len(found(constant).warnings) == 1
    assert found(better).warnings == ()
    for counts in ([0] * 4 + [1] * 3, [0] * 23 + [1] * 6):  # the same error, to the last digit
        few = torch.tensor(counts)
        scores = [(torch.eye(2)[:1].repeat(len(few), 1), few)]
        same = evaluate_scores(scores, ("ok", "rust"), protocol="", device=torch.device("cpu"))
        assert same.sums.top1_error == same.sums.majority_error
    one_class = evaluate_scores(
        [(torch.eye(2)[:1].repeat(9, 1), torch.zeros(9, dtype=torch.int64))],
        ("ok", "rust"), protocol="", device=torch.device("cpu"),
    )  # fmt: skip
    assert (one_class.warnings, one_class.sums.majority_error) == ((), 0)

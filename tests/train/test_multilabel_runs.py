"""Training on images with sets of labels, and what is fitted on validation at its end."""

import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import resnets
from resnets.config import ConfigError, Postprocess
from resnets.data.batch import Batch
from resnets.train.loss import LossSpec, classification_loss

CLASSES = ["even", "round", "seven", "high"]


def digits_with_labels() -> dict:
    """scikit-learn's digits with the sets of labels that their number has."""
    digits = load_digits()
    number = digits.target
    labels = np.stack(
        [number % 2 == 0, np.isin(number, [0, 6, 8, 9]), number == 7, number > 4], 1
    ).astype(np.uint8)
    images = (digits.images * 255 / 16).astype(np.uint8)
    return {"train": (images[:900], labels[:900]), "classes": CLASSES}


def run(folder, **fields):
    return resnets.train(
        "digits",
        data=digits_with_labels(),
        model="cifar-resnet8",
        iterations=40,
        batch_size=32,
        out=folder,
        quiet=True,
        **{"data.augment.mixup": 0.2, "eval.every": "40it", **fields},
    )


def test_a_run_of_sets_of_labels(tmp_path) -> None:
    found = run(tmp_path / "run")
    assert (found.recipe.loss.kind, found.recipe.data.labels) == ("bce", "multi")
    test = found.result["test"]
    assert test["mAP"] > 60
    assert {row["class"] for row in test["per_class"]} == set(CLASSES)
    assert not {"top1_error", "confusion"} & set(test)
    spec = found.model.postprocess
    assert (spec.activation, spec.min_score, len(spec.thresholds)) == ("sigmoid", None, 4)
    assert spec.temperature == found.result["calibration"]["temperature"] != 1.0
    assert min(found.result["calibration"]["after"].values()) >= 0
    again = resnets.evaluate(found, data=digits_with_labels(), quiet=True, precision="float32")
    assert again.evaluation.metrics["mAP"] > 60
    named = {mistake.predicted.removeprefix("no ") for mistake in again.mistakes}
    assert named <= set(CLASSES)
    row = next(row for row in found.history if row["kind"] == "val")
    assert row["error"] == pytest.approx(100 - row["mAP"])
    before = found.model.postprocess
    resnets.train(data=digits_with_labels(), out=tmp_path / "run", resume=True, quiet=True)
    assert resnets.load(tmp_path / "run").postprocess == before


def test_what_does_not_go_with_sets_is_refused(tmp_path) -> None:
    for fields in (
        {"loss.kind": "focal"},
        {"loss.class_weights": "auto"},
        {"data.balance": "sqrt"},
        {"data.labels": "single"},
    ):
        with pytest.raises((ConfigError, resnets.DataError), match="labels"):
            run(tmp_path / "refused", **fields)


@pytest.mark.ci
def test_a_run_of_one_class_is_calibrated(tmp_path) -> None:
    found = resnets.train(
        "digits", model="cifar-resnet8", iterations=60, out=tmp_path / "run", quiet=True
    )
    calibration = found.result["calibration"]
    assert calibration["after"]["loss"] <= calibration["before"]["loss"]
    assert found.model.postprocess == Postprocess(
        temperature=calibration["temperature"], min_score=calibration["min_score"]
    )
    again = resnets.evaluate(found, split="val", quiet=True).evaluation
    assert again.loss == pytest.approx(calibration["after"]["loss"], rel=1e-3)
    assert again.loss == pytest.approx(found.result["val"]["loss"], rel=1e-3)
    meta = json.loads(json.dumps(found.result["postprocess"]))
    assert meta["temperature"] == calibration["temperature"]


def test_loss_of_sets_by_hand() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
    targets = torch.tensor([[1, 0, 1], [0, 0, 1]], dtype=torch.uint8)
    batch = Batch(torch.zeros(2, 1), targets, torch.arange(2))
    losses = classification_loss(LossSpec(kind="bce"))(lambda _: logits, batch)
    probabilities = logits.sigmoid()
    expected = -torch.where(targets > 0, probabilities, 1 - probabilities).log().mean()
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert losses.sums["label_errors"].item() == pytest.approx(2 / 3)  # 0 and 2 of 3 are wrong
    other = targets.flip(0)
    mixed = Batch(torch.zeros(2, 1), targets, batch.ids, other, torch.tensor([0.9, 0.5]))
    present = torch.stack([targets[0], targets[1] | other[1]])  # a share of 0.1 does not count
    alone = Batch(torch.zeros(2, 1), present, batch.ids)
    loss = classification_loss(LossSpec(kind="bce"))
    assert torch.equal(loss(lambda _: logits, mixed).total, loss(lambda _: logits, alone).total)

"""Out-of-sample predictions of folds, and the label errors that they suggest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.config import from_toml
from resnets.data.dataset.source import Part
from resnets.data.errors import DataError
from resnets.data.loading.batches import eval_batches
from resnets.data.sources.open import find_source
from resnets.data.splits.corrections import apply_corrections, image_path_within
from resnets.data.splits.image_record import TEST
from resnets.data.splits.roles import choose_roles
from resnets.evaluate.postprocess import probabilities
from resnets.evaluate.prepare import to_device
from resnets.study.grid.cells import Cell
from resnets.utils.files.csv import write_csv
from resnets.utils.imports import require_package
from resnets.weights.checkpoint.find import find_checkpoint
from resnets.weights.checkpoint.format import RECIPE, read_checkpoint
from resnets.weights.checkpoint.image_record import read_fingerprint
from resnets.weights.load import load_classifier

BATCH = 256


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions for N images by networks that were not trained on them.

    paths: within the source. rows: of `part`. labels, folds: (N,). probabilities: (N, K) of the
    `classes`.
    """

    paths: Sequence[str]
    part: Part
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each image, (N,)."""
        return self.probabilities.argmax(1)

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(K, K) counts; rows are the label, columns the predicted class."""
        counts = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(counts, (self.labels, self.predicted), 1)
        return counts

    def write(self, path: Path) -> None:
        """Write a CSV file: path, label, fold, prediction, and the probability of each class."""
        rows = []
        for row, name in enumerate(self.paths):
            label, predicted = self.classes[self.labels[row]], self.classes[self.predicted[row]]
            scores = (f"{score:.5g}" for score in self.probabilities[row].tolist())
            rows.append((name, label, int(self.folds[row]), predicted, *scores))
        write_csv(path, ("path", "label", "fold", "predicted", *self.classes), rows)


def predict_folds(cells: Sequence[Cell], device: str) -> Predictions:
    """Predict every image by the finished `cells` of a grid of folds, in the order of the set.

    Unreadable images are skipped. Raises DataError if no cell is finished.
    """
    folds = [_predict_fold(cell, device) for cell in cells if cell.status == "done"]
    if not folds:
        raise DataError("no fold is finished: none of the images is predicted")
    joined = {
        name: np.concatenate([getattr(each, name) for each in folds])
        for name in ("rows", "labels", "folds", "probabilities")
    }
    order = np.argsort(joined["rows"], kind="stable")
    paths = [path for each in folds for path in each.paths]
    return Predictions(
        [paths[index] for index in order.tolist()],
        folds[0].part,
        **{name: values[order] for name, values in joined.items()},
        classes=folds[0].classes,
    )


def _predict_fold(cell: Cell, device: str) -> Predictions:
    """Predict one fold by the network that was trained without it."""
    data = replace(from_toml(cell.folder / RECIPE, stored=True).data, in_memory="never")
    checkpoint = find_checkpoint(cell.folder)
    source = apply_corrections(find_source(data), data)
    roles = choose_roles(source, data, read_fingerprint(read_checkpoint(checkpoint)))
    share = roles.share(TEST)
    assert share is not None
    split = share.part.open(
        share.rows, source.classes, roles.description(TEST), data, training=False
    )
    model = load_classifier(checkpoint).eval()
    chosen, _ = to_device(model, device, "float32")
    ids, scores = [], []
    with torch.inference_mode():
        for batch in eval_batches(split, model.preprocess, BATCH, chosen):
            assert isinstance(batch.images, torch.Tensor)
            logits = model(batch.images).float().cpu().numpy()
            scores.append(probabilities(logits, model.postprocess))
            ids.append(batch.ids.numpy())
    rows = share.rows[np.concatenate(ids)]
    return Predictions(
        [image_path_within(share.part, row, data.source) for row in rows.tolist()],
        share.part,
        rows,
        share.part.labels[rows],
        np.full(len(rows), cell.seed),
        np.concatenate(scores),
        source.classes,
    )


@dataclass(frozen=True)
class LabelIssue:
    """An image whose label is likely wrong.

    row: index in the predictions. label, suggested: names of classes. score, probability: those
    that the predictions give the label and the suggested class; the lower the score, the more
    certain the error.
    """

    row: int
    path: str
    label: str
    suggested: str
    score: float
    probability: float


def find_label_issues(predictions: Predictions) -> list[LabelIssue]:
    """Find images whose labels are likely wrong, the most certain first.

    Method: confident learning (Northcutt et al. 2021) with cleanlab, which estimates the joint
    distribution of given and true labels from the predictions, and so the number of label errors;
    the images with the lowest probability of their label are taken. Raises ConfigError if cleanlab
    is not installed.
    """
    require_package("cleanlab", "finding label errors", "check")
    from cleanlab.filter import find_label_issues as find

    scores = predictions.probabilities.astype(np.float64)
    scores /= scores.sum(1, keepdims=True)
    # On planted errors (docs/guides/label-errors.md) this finds more, and fewer labels that are
    # right, than "prune_by_noise_rate", cleanlab's default.
    rows: Sequence[int] = find(
        predictions.labels,
        scores,
        filter_by="low_self_confidence",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    ).tolist()
    return [
        LabelIssue(
            row,
            predictions.paths[row],
            predictions.classes[predictions.labels[row]],
            predictions.classes[predicted],
            float(scores[row, predictions.labels[row]]),
            float(scores[row, predicted]),
        )
        for row in rows
        if (predicted := int(scores[row].argmax())) != predictions.labels[row]
    ]

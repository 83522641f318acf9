"""Class probabilities of images; decoding overlaps with computing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.config import Postprocess
from resnets.data.errors import DataError
from resnets.data.files.walk import SkippedFiles, walk_unlabeled
from resnets.data.transforms.preprocess import ImageInput
from resnets.evaluate.batched_inference import NOT_FINITE, batched_inference
from resnets.evaluate.postprocess import decide

MAX_BATCH = 256  # images computed at once, and whose rows are printed together


class Classifier(Protocol):
    """Computes logits of images; see `runtime.base.Backend`.

    preprocess: a `Preprocessor`. postprocess: how logits become predictions. batch: images per
    batch. at_once: batches computed at a time.
    """

    classes: tuple[str, ...]
    preprocess: Any
    postprocess: Postprocess
    batch: int
    at_once: int

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute logits (B, K) of images (B, size, size, C)."""
        ...


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, highest first, or the error of reading it.

    labels: the image's classes, by the thresholds of a network that predicts several labels; None
    for one that predicts one class. unknown: whether the image belongs to no class; None if the
    weights have no threshold for that.
    """

    path: Path
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None
    labels: tuple[str, ...] | None = None
    unknown: bool | None = None


def find_images(paths: Iterable[str | Path], skipped: SkippedFiles | None = None) -> list[Path]:
    """List the given files, and the images of the given folders in the order of their paths.

    See `data.files.walk` for which files of a folder are images; the others are counted in
    `skipped`. A folder that cannot be listed is returned itself, so that reading it gives the
    reason. Raises DataError for a folder without images.
    """
    images: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            images.append(path)
            continue
        passed_over = SkippedFiles()
        in_folder = [path / name for name in walk_unlabeled(path, passed_over)]
        if not in_folder:
            raise DataError(f"{path}: no images in this folder{passed_over.describe()}")
        images.extend(in_folder)
        if skipped is not None:
            skipped.add_all(passed_over)
    return images


def input_name(images: Sequence[ImageInput], row: int) -> str:
    """Return the path of an image, or "image ROW" if it is in memory."""
    image = images[row]
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {row}"


def predict(
    classifier: Classifier, images: Sequence[ImageInput], *, top_k: int = 5, workers: int
) -> Iterator[Prediction]:
    """Yield a `Prediction` for each of `images`, in order, with its `top_k` most probable classes.

    `workers` threads decode the next batch while others are computed. An image that cannot be read
    yields its error. The path of an image that is not a file is "image ROW".
    """

    def read(row: int) -> Tensor:
        image: Tensor = classifier.preprocess.to_tensor(images[row])
        return image

    def logits(images: Sequence[Tensor]) -> Tensor:
        pixels = torch.stack([each.permute(1, 2, 0) for each in images])  # (B, H, W, C)
        return torch.from_numpy(classifier.logits(pixels.numpy()))

    for group in batched_inference(
        read,
        logits,
        range(len(images)),
        group=min(MAX_BATCH, classifier.batch),
        workers=workers,
        at_once=classifier.at_once,
        finite=True,
    ):
        for row, output in group:
            path = Path(input_name(images, row))
            if isinstance(output, str):
                error = f"{path}: {output}" if output == NOT_FINITE else output
                yield Prediction(path, error=error)
                continue
            (decision,) = decide(output.numpy()[None], classifier.postprocess)
            best = decision.top(top_k)
            yield Prediction(
                path,
                tuple(classifier.classes[k] for k in best),
                tuple(decision.probabilities[best].tolist()),
                **decision.to_json(classifier.classes),
            )

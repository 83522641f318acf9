"""Embeddings of images: the input of the classifier, as a Parquet table, and nearest images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.config import ConfigError, atomic_write, lock_path
from resnets.data import DataError, Split
from resnets.data.dataset.labels import format_label
from resnets.evaluate.batched_inference import NOT_FINITE, PixelBudget, batched_inference
from resnets.evaluate.views import Views, image_name, logits_of, read_views
from resnets.models import ImageClassifier
from resnets.models.resnet import ResNet
from resnets.utils.printable import valid_text

MAX_BATCH = 256  # images computed at once, and rows written at once


@dataclass(frozen=True, eq=False)
class Embedding:
    """An image's path, its class (None if unknown), and its vector (D,) float32.

    `error`: why the image could not be read; its vector is then empty.
    """

    path: str
    label: str | None
    vector: NDArray[np.float32]
    error: str | None = None


def embed(model: ImageClassifier, images: Tensor) -> Tensor:
    """The last stage's output, averaged over positions: (B, D) of normalized (B, C, H, W).

    For residual and plain networks this is the input of the classifier; the final norm and ReLU of
    a pre-activation network are applied first.
    """
    features = model.stages(images)[model.stage_names[-1]]
    if isinstance(model, ResNet):
        features = model.norm(features)
    return features.mean((2, 3))


def embed_image(
    model: ImageClassifier, image: Path, *, device: torch.device, precision: str
) -> NDArray[np.float32]:
    """The vector (D,) of one image, as in `embeddings`; DataError if it is not finite."""
    images = model.preprocess(image)[None].to(device)
    with torch.inference_mode():
        vector = logits_of(lambda x: embed(model, x), images, precision=precision)[0]
    if not vector.isfinite().all():
        raise DataError(f"{image}: {NOT_FINITE}")
    return vector.cpu().numpy()


def embeddings(
    model: ImageClassifier, split: Split, *, device: torch.device, precision: str, workers: int
) -> Iterator[Embedding]:
    """The embedding of the center crop of each image of `split`, in order.

    `model` is on `device`. At most two batches of images are held. An image that cannot be read
    yields its error.
    """

    def read(row: int) -> Tensor:
        pixels = read_views(split, row, Views(), model.preprocess.spec)[0]
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def compute(images: Tensor) -> Tensor:
        inputs = model.preprocess.normalize(images.to(device))
        return logits_of(lambda x: embed(model, x), inputs, precision=precision).cpu()

    budget = PixelBudget(device)
    labels = split.labels.numpy()
    for group in batched_inference(
        read,
        lambda images: budget.run(compute, torch.stack(list(images))),
        range(len(split)),
        group=min(MAX_BATCH, budget.images(model.preprocess.spec.size**2)),
        workers=workers,
        finite=True,
    ):
        for row, found in group:
            name = image_name(split, row)
            label = format_label(labels[row], split.classes) or None
            if isinstance(found, str):
                error = f"{name}: {found}" if found == NOT_FINITE else found
                yield Embedding(name, label, np.zeros(0, np.float32), error=error)
            else:
                yield Embedding(name, label, found.numpy())


def _valid(label: str | None) -> str | None:
    return None if label is None else valid_text(label)


def write_parquet(found: Iterable[Embedding], path: Path, about: dict[str, str]) -> int:
    """Write columns path, label and embedding (a list of D floats); returns the number of rows.

    The file is written whole or not at all, with `about` in its metadata as "resnets", in JSON.
    Raises ConfigError without pyarrow, ValueError if there is nothing to write.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigError("--out: Parquet needs pyarrow; pip install 'resnets[hub]'") from None
    rows = iter(found)
    writer, count = None, 0
    with lock_path(path), atomic_write(path) as temporary:
        try:
            while chunk := list(islice(rows, MAX_BATCH)):
                if writer is None:
                    writer = pq.ParquetWriter(temporary, _schema(len(chunk[0].vector), about))
                values = pa.array(np.concatenate([each.vector for each in chunk]))
                columns = [
                    pa.array([valid_text(each.path) for each in chunk], pa.string()),
                    pa.array([_valid(each.label) for each in chunk], pa.string()),
                    pa.FixedSizeListArray.from_arrays(values, len(chunk[0].vector)),
                ]
                writer.write_batch(pa.record_batch(columns, schema=writer.schema))
                count += len(chunk)
            if writer is None:
                raise ValueError(f"{path}: not written: no readable image")
        finally:
            if writer is not None:
                writer.close()
    return count


def _schema(width: int, about: dict[str, str]) -> Any:
    """Columns of the table, embeddings of `width` numbers, and `about` as metadata."""
    import pyarrow as pa

    columns = [
        ("path", pa.string()),
        ("label", pa.string()),
        ("embedding", pa.list_(pa.float32(), width)),
    ]
    return pa.schema(columns, metadata={"resnets": json.dumps(about)})


class NearestImages:
    """The `count` embeddings nearest to a vector, by cosine similarity, of those seen."""

    def __init__(self, vector: NDArray[np.float32], count: int) -> None:
        self.vector, self.count = vector, count
        self.found: list[tuple[float, Embedding]] = []

    def watch(self, embeddings: Iterable[Embedding]) -> Iterator[Embedding]:
        """Iterate over `embeddings`, remembering the nearest."""
        for embedding in embeddings:
            similarity = cosine(self.vector, embedding.vector)
            self.found.append((similarity, embedding))
            if len(self.found) >= 2 * self.count + MAX_BATCH:
                self.found = list(self.best)
            yield embedding

    @property
    def best(self) -> Sequence[tuple[float, Embedding]]:
        """Cosine similarity and embedding, nearest first."""
        return sorted(self.found, key=lambda pair: -pair[0])[: self.count]


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Cosine similarity of two vectors; 0 if one of them is zero."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else 0.0

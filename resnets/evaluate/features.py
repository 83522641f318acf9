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

from resnets.config import ConfigError
from resnets.data import Split
from resnets.data.dataset.labels import format_label
from resnets.data.transforms.preprocess import ImageInput
from resnets.evaluate.batched_inference import NOT_FINITE, PixelBudget, batched_inference
from resnets.evaluate.predict import input_name
from resnets.evaluate.views import Views, compute_logits, image_name, read_views
from resnets.models import ImageClassifier
from resnets.models.block_config import eval_mode
from resnets.utils.files.locks import lock_path
from resnets.utils.files.write import atomic_write
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
    """Return the last stage's output averaged over positions, (B, D), of images (B, C, H, W).

    For residual and plain networks this is the input of the classifier; the final norm and ReLU of
    a pre-activation network are applied first.
    """
    return model.forward_features(images).mean((2, 3))


def iter_embeddings(
    model: ImageClassifier,
    images: Split | Sequence[ImageInput],
    *,
    device: torch.device,
    precision: str,
    workers: int,
) -> Iterator[Embedding]:
    """Yield the embedding of the center crop of each of `images`, in order.

    `model` is on `device`. At most two batches of images are in memory. An image that cannot be
    read yields its error.
    """

    def describe(row: int) -> tuple[str, str | None]:
        if isinstance(images, Sequence):
            return input_name(images, row), None
        label = format_label(images.labels.numpy()[row], images.classes)
        return image_name(images, row), label or None

    def read(row: int) -> Tensor:
        if isinstance(images, Sequence):
            image: Tensor = model.preprocess.to_tensor(images[row])
            return image
        pixels = read_views(images, row, Views(), model.preprocess.spec)[0]
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def compute(images: Tensor) -> Tensor:
        inputs = model.preprocess.normalize(images.to(device))
        return compute_logits(lambda x: embed(model, x), inputs, precision=precision).cpu()

    budget = PixelBudget(device)
    with eval_mode(model):
        for group in batched_inference(
            read,
            lambda images: budget.run(compute, torch.stack(list(images))),
            range(len(images)),
            group=min(MAX_BATCH, budget.images(model.preprocess.spec.size**2)),
            workers=workers,
            finite=True,
        ):
            for row, output in group:
                name, label = describe(row)
                if isinstance(output, str):
                    error = f"{name}: {output}" if output == NOT_FINITE else output
                    yield Embedding(name, label, np.zeros(0, np.float32), error=error)
                else:
                    yield Embedding(name, label, output.numpy())


def write_parquet(embeddings: Iterable[Embedding], path: Path, metadata: dict[str, str]) -> int:
    """Write columns path, label and embedding (a list of D floats); returns the number of rows.

    The file is written atomically, with `metadata` in JSON under the key "resnets". Raises
    ConfigError without pyarrow, ValueError if there is nothing to write.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigError("--out: Parquet needs pyarrow; pip install 'resnets[hub]'") from None
    rows = iter(embeddings)
    writer, count = None, 0
    with lock_path(path), atomic_write(path) as temporary:
        try:
            while chunk := list(islice(rows, MAX_BATCH)):
                if writer is None:
                    writer = pq.ParquetWriter(
                        temporary, _make_schema(len(chunk[0].vector), metadata)
                    )
                values = pa.array(np.concatenate([each.vector for each in chunk]))
                columns = [
                    pa.array([valid_text(each.path) for each in chunk], pa.string()),
                    pa.array(
                        [each.label and valid_text(each.label) for each in chunk], pa.string()
                    ),
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


def _make_schema(width: int, metadata: dict[str, str]) -> Any:
    """Return the schema of the table, with embeddings of `width` numbers, and its metadata."""
    import pyarrow as pa

    columns = [
        ("path", pa.string()),
        ("label", pa.string()),
        ("embedding", pa.list_(pa.float32(), width)),
    ]
    return pa.schema(columns, metadata={"resnets": json.dumps(metadata)})


class NearestImages:
    """Collects the `count` embeddings nearest to a vector by cosine similarity."""

    def __init__(self, vector: NDArray[np.float32], count: int) -> None:
        self.vector, self.count = vector, count
        self.candidates: list[tuple[float, Embedding]] = []

    def collect(self, embeddings: Iterable[Embedding]) -> Iterator[Embedding]:
        """Iterate over `embeddings`, and remember the nearest."""
        for embedding in embeddings:
            similarity = cosine_similarity(self.vector, embedding.vector)
            self.candidates.append((similarity, embedding))
            if len(self.candidates) >= 2 * self.count + MAX_BATCH:
                self.candidates = list(self.best)
            yield embedding

    @property
    def best(self) -> Sequence[tuple[float, Embedding]]:
        """Cosine similarity and embedding, nearest first."""
        return sorted(self.candidates, key=lambda pair: -pair[0])[: self.count]


def cosine_similarity(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the cosine similarity of two vectors; 0 if one of them is zero."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else 0.0

"""Pictures as vectors: what a net's head reads, written as a table, and who is near whom."""

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

from resnets.config import ConfigError, atomic_write, hold_name
from resnets.data import DataError, Split
from resnets.evaluate.batch_size import Budget
from resnets.evaluate.batched_inference import NOT_FINITE, compute_in_groups
from resnets.evaluate.views.crops import cut, picture_name
from resnets.evaluate.views.views import Views, logits_of
from resnets.models import ImageClassifier
from resnets.models.resnet import ResNet
from resnets.utils.terminal import valid_text

MOST = 256  # pictures computed at once, and rows written at once


@dataclass(frozen=True, eq=False)
class Embedding:
    """A picture's path, its class (None where unknown), and its vector (D,) float32.

    `error` says why a picture could not be read; its vector is then empty.
    """

    path: str
    label: str | None
    vector: NDArray[np.float32]
    error: str | None = None


def embed(net: ImageClassifier, images: Tensor) -> Tensor:
    """The last stage's output, averaged over positions: (B, D) of normalised (B, C, H, W).

    Of a residual or plain net that is what its head reads; the closing norm and relu of a
    pre-activation net are applied first.
    """
    features = net.stages(images)[net.stage_names[-1]]
    if isinstance(net, ResNet):
        features = net.norm(features)
    return features.mean((2, 3))


def embed_picture(
    net: ImageClassifier, picture: Path, *, device: torch.device, precision: str
) -> NDArray[np.float32]:
    """The vector (D,) of one picture, as `embeddings` gives it; DataError when there is none."""
    images = net.preprocess(picture)[None].to(device)
    with torch.inference_mode():
        vector = logits_of(lambda x: embed(net, x), images, precision=precision)[0]
    if not vector.isfinite().all():
        raise DataError(f"{picture}: {NOT_FINITE}")
    return vector.cpu().numpy()


def embeddings(
    net: ImageClassifier, split: Split, *, device: torch.device, precision: str, workers: int
) -> Iterator[Embedding]:
    """Each picture of `split`, its centre crop embedded, in order; `net` is on `device`.

    At most two batches of pictures are held. A picture that cannot be read yields its error.
    """

    def read(row: int) -> Tensor:
        pixels = cut(split, row, Views(), net.preprocess.spec)[0]
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def compute(images: Tensor) -> Tensor:
        inputs = net.preprocess.normalize(images.to(device))
        return logits_of(lambda x: embed(net, x), inputs, precision=precision).cpu()

    budget = Budget(device)
    labels = split.labels.tolist()
    for group in compute_in_groups(
        read,
        lambda pictures: budget.run(compute, torch.stack(list(pictures))),
        range(len(split)),
        group=min(MOST, budget.pictures(net.preprocess.spec.size**2)),
        workers=workers,
        finite=True,
    ):
        for row, found in group:
            name = picture_name(split, row)
            label = split.classes[labels[row]] if labels[row] >= 0 else None
            if isinstance(found, str):
                error = f"{name}: {found}" if found == NOT_FINITE else found
                yield Embedding(name, label, np.zeros(0, np.float32), error=error)
            else:
                yield Embedding(name, label, found.numpy())


def _valid(label: str | None) -> str | None:
    return None if label is None else valid_text(label)


def write_parquet(found: Iterable[Embedding], path: Path, about: dict[str, str]) -> int:
    """Write columns path, label and embedding (a list of D floats); returns the number of rows.

    The file appears whole or not at all, and `about` is in its metadata as "resnets", in JSON.
    Raises ConfigError where pyarrow is missing, ValueError when there is nothing to write.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigError("--out: Parquet needs pyarrow; pip install 'resnets[hub]'") from None
    rows = iter(found)
    writer, count = None, 0
    with hold_name(path), atomic_write(path) as temporary:
        try:
            while chunk := list(islice(rows, MOST)):
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
                raise ValueError(f"{path}: not written, there is no readable picture")
        finally:
            if writer is not None:
                writer.close()
    return count


def _schema(width: int, about: dict[str, str]) -> Any:
    """Columns of the table, embeddings of `width` numbers, and `about` beside them."""
    import pyarrow as pa

    columns = [
        ("path", pa.string()),
        ("label", pa.string()),
        ("embedding", pa.list_(pa.float32(), width)),
    ]
    return pa.schema(columns, metadata={"resnets": json.dumps(about)})


class Nearest:
    """The `count` embeddings most like a vector, by cosine similarity, of all that came by."""

    def __init__(self, vector: NDArray[np.float32], count: int) -> None:
        self.vector, self.count = vector, count
        self.found: list[tuple[float, Embedding]] = []

    def watch(self, embeddings: Iterable[Embedding]) -> Iterator[Embedding]:
        """Hand on `embeddings`."""
        for embedding in embeddings:
            likeness = cosine(self.vector, embedding.vector)
            self.found.append((likeness, embedding))
            if len(self.found) >= 2 * self.count + MOST:
                self.found = list(self.best)
            yield embedding

    @property
    def best(self) -> Sequence[tuple[float, Embedding]]:
        """Cosine similarity and embedding, the most like first."""
        return sorted(self.found, key=lambda pair: -pair[0])[: self.count]


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Cosine similarity of two vectors; 0 where one of them is null."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else 0.0

"""Name what is in pictures: files in, class probabilities out, decoding beside the net."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from resnets.data.errors import DataError
from resnets.data.files import PICTURE_SUFFIXES
from resnets.evaluate.views import logits_of
from resnets.models import Net

Answer = tuple[tuple[str, ...], tuple[float, ...]]  # classes and their probabilities


@dataclass(frozen=True)
class Prediction:
    """What the net says of one file: the most probable classes first, or why it was not read."""

    path: Path
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None


def find_pictures(paths: Iterable[str | Path]) -> list[Path]:
    """Files as named, and each folder's pictures below it in sorted order.

    Hidden entries and files whose suffix is no picture's are passed over inside folders; links to
    folders are not followed. Raises DataError for a folder without pictures.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        pictures = sorted(_walk(path)) if path.is_dir() else [path]
        if not pictures:
            raise DataError(f"{path}: no pictures in this folder ({_suffixes()})")
        found.extend(pictures)
    return found


def _walk(root: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror})") from None

    for place, folders, names in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES:
                yield Path(place, name)


def _suffixes() -> str:
    return "looked for " + " ".join(sorted(PICTURE_SUFFIXES))


def predict(
    model: Net,
    paths: Sequence[Path],
    *,
    top_k: int = 5,
    batch_size: int,
    device: torch.device,
    precision: str,
    workers: int,
) -> Iterator[Prediction]:
    """One `Prediction` for each of `paths`, in their order, the `top_k` likeliest classes each.

    `model` is on `device`, in eval mode, with `.preprocess` and `.classes` (as `resnets.load`
    gives it). `workers` threads decode the coming batch while the net computes the present one;
    at most two batches of pictures are held. A file that cannot be read yields its error.
    """
    pictures = _read_ahead(model, paths, workers, ahead=batch_size)
    while chunk := list(islice(pictures, batch_size)):
        readable = [picture for _, picture in chunk if isinstance(picture, Tensor)]
        answers: Iterator[Answer] = iter(())
        if readable:
            images = torch.stack(readable).to(device)  # (B, C, H, W) uint8
            answers = iter(_classify(model, images, top_k, precision))
        for path, picture in chunk:
            if isinstance(picture, Tensor):
                yield Prediction(path, *next(answers))
            else:
                yield Prediction(path, error=picture)


def _read_ahead(
    model: Net, paths: Sequence[Path], workers: int, ahead: int
) -> Iterator[tuple[Path, Tensor | str]]:
    """Each path with its uint8 picture (C, size, size) or its error, decoded `ahead` in threads."""

    def read(path: Path) -> Tensor | str:
        try:
            return model.preprocess.picture(path)
        except (DataError, OSError) as error:
            return str(error)

    waiting: deque[tuple[Path, Future[Tensor | str]]] = deque()
    rest = iter(paths)
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            while True:
                for path in islice(rest, ahead - len(waiting)):
                    waiting.append((path, pool.submit(read, path)))
                if not waiting:
                    return
                path, future = waiting.popleft()
                yield path, future.result()
        finally:  # whoever stops early need not wait for what is still queued
            pool.shutdown(wait=False, cancel_futures=True)


def _classify(model: Net, images: Tensor, top_k: int, precision: str) -> list[Answer]:
    """Likeliest classes and their probabilities for uint8 images (B, C, H, W) on the device."""
    with torch.inference_mode():
        inputs = model.preprocess.normalise(images)
        logits = logits_of(model, inputs, precision=precision)  # (B, K)
        best = logits.softmax(1).topk(min(top_k, len(model.classes)), 1)
    return [
        (tuple(model.classes[k] for k in row), tuple(shares))
        for row, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]

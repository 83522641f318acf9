"""Verify an artifact against its model: equal outputs, and an error rate that does not rise.

`write_verified` writes an artifact to a temporary folder, and moves it into place if it passes.
"""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from resnets.config import ConfigError, dump_json
from resnets.data import Split
from resnets.data.order import evenly_spaced
from resnets.data.sources.builtin import load_digits, load_photographs
from resnets.data.transforms.preprocess import Preprocessor
from resnets.evaluate.data.ground_truth import GroundTruth
from resnets.models import ImageClassifier
from resnets.runtime.artifact import (
    SUFFIXES,
    ArtifactKind,
    artifact_files,
    artifact_kind,
    manifest_path,
    versions,
)
from resnets.runtime.base import ArtifactBackend, Backend
from resnets.utils.errors import ResnetsError, name_in_errors
from resnets.utils.files.locks import lock_path
from resnets.utils.files.write import file_sha256
from resnets.weights.checkpoint.find import find_checkpoint
from resnets.weights.errors import CheckpointError

if TYPE_CHECKING:
    from resnets.evaluate.evaluation import AnyEvaluation

BATCHES = (1, 2, 7)
# Limits of `relative_difference` of the logits. Measured on a model of 6
# layers: 3e-7, 0.004, and 0.008 (ONNX Runtime) to 0.02 (OpenVINO); deeper models differ more.
LIMITS = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.01, "int8": 0.25}
MIN_FULL_IMAGE_LIMIT = 0.05  # lower bound of LIMITS for full images
MAX_MEASURED = 5000  # images whose errors are counted
EXIT_VERIFICATION_FAILED = 3  # exit code of `resnets export`


class VerificationError(ResnetsError):
    """Raised for an artifact that differs from its model; the message gives the difference.

    top1_error: in percent, if it was measured.
    """

    def __init__(self, message: str, top1_error: float | None = None) -> None:
        super().__init__(message)
        self.top1_error = top1_error

    @property
    def reason(self) -> str:
        """The message without "nothing was written"."""
        return str(self).removesuffix("; nothing was written")


@dataclass(frozen=True)
class Parity:
    """Difference between the logits of an artifact and its model; relative: see LIMITS."""

    batch: int
    largest: float
    relative: float
    same_class: int


def relative_difference(actual: NDArray[Any], expected: NDArray[Any], std: float = 0.0) -> float:
    """Return the root mean square difference over the standard deviation of `expected`.

    std: replaces that deviation if not 0. A deviation of 0 counts as 1.
    """
    difference = float(np.sqrt(np.square(actual - expected).mean()))
    return difference / (std or float(expected.std()) or 1.0)


def reference_logits(model: ImageClassifier) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return a function from images (B, size, size, C) to logits (B, K) of the unfolded model."""

    def compute(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            channels_first = torch.from_numpy(images).permute(0, 3, 1, 2)
            logits: NDArray[np.float32] = model(model.preprocess.normalize(channels_first)).numpy()
            return logits

    return compute


def compare_logits(
    model: ImageClassifier, backend: Backend, images: NDArray[np.uint8], limit: float
) -> list[Parity]:
    """Compare outputs at batch sizes 1, 2 and 7; VerificationError above `limit`."""
    reference = reference_logits(model)
    rows, start = [], 0
    std = float(reference(images[: sum(BATCHES)]).std()) or 1.0
    for batch in BATCHES:
        chunk = images[start : start + batch]
        start += batch
        expected, actual = reference(chunk), backend.logits(chunk)
        rows.append(
            Parity(
                batch=batch,
                largest=float(np.abs(actual - expected).max()),
                relative=relative_difference(actual, expected, std),
                same_class=int((actual.argmax(1) == expected.argmax(1)).sum()),
            )
        )
        if not rows[-1].relative <= limit:  # NaN fails too
            raise VerificationError(
                f"{backend.name} differs from {model.origin}: at batch size {batch} the relative"
                f" difference of the logits is {rows[-1].relative:.2g}, allowed {limit:g}"
                f" (largest absolute difference {rows[-1].largest:.3g}); nothing was written"
            )
    return rows


def compare_full_images(
    model: ImageClassifier, backend: ArtifactBackend, limit: float
) -> dict[str, Any] | None:
    """Compare outputs on full photographs that the graph resizes; None if it does not resize.

    Pixels may differ from the decoder's by 3 of 255, hence MIN_FULL_IMAGE_LIMIT.
    """
    limit = max(limit, MIN_FULL_IMAGE_LIMIT)
    photographs = [photograph[:400, :560] for photograph in load_photographs()]
    photographs = [_to_channels(each, backend.channels) for each in photographs]
    outputs = [backend.full_image_logits(each) for each in photographs]
    actual = [each for each in outputs if each is not None]
    if len(actual) < len(outputs):
        return None
    views = torch.stack([model.preprocess.to_tensor(each) for each in photographs])
    expected = reference_logits(model)(views.permute(0, 2, 3, 1).numpy())
    relative = relative_difference(np.stack(actual), expected)
    if not relative <= limit:
        raise VerificationError(
            f"{backend.name} differs from {model.origin} on full images, which it resizes and"
            f" crops: the relative difference of the logits is {relative:.2g}, allowed {limit:g};"
            " nothing was written"
        )
    return {
        "images": "sklearn.datasets.load_sample_images().images, of each [:400, :560]",
        "expected": np.round(expected.astype(np.float64), 6).tolist(),  # logits of the model
        "relative": relative,
        "limit": limit,
    }


def _to_channels(photograph: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Convert (H, W, 3) to (H, W, channels)."""
    image = Image.fromarray(photograph).convert("L" if channels == 1 else "RGB")
    return np.array(image).reshape(*photograph.shape[:2], channels)


def count_errors(backend: Backend, split: Split, truth: GroundTruth) -> AnyEvaluation:
    """Evaluate a backend on a split, on at most MAX_MEASURED evenly spaced images."""
    positions = evenly_spaced(len(truth.rows), MAX_MEASURED).tolist()
    chosen = {truth.rows[position] for position in positions}
    subset = truth.select(chosen)
    from resnets.evaluate.measure import measure  # deferred: slow to import
    from resnets.runtime.scorer import BackendScorer

    return measure(BackendScorer(backend), split, subset, weights=[backend.origin]).evaluation


def compare_errors(
    name: str, baseline: AnyEvaluation, after: AnyEvaluation, max_drop: float
) -> dict[str, Any]:
    """Return the errors in percent of the model and of the artifact `name` on the same images.

    Raises VerificationError if the error (100 - mAP for multi-label data) rises by more than
    `max_drop` percentage points.
    """
    rise = after.error - baseline.error
    if not rise <= max_drop:
        raise VerificationError(
            f"{name}: {after.error_name} rises by {rise:.2f} points, from {baseline.error:.2f}%"
            f" to {after.error:.2f}% of {after.examples:,} images; allowed are {max_drop:g}"
            " (--max-drop); nothing was written",
            after.error,
        )
    before, now = baseline.metrics, after.metrics
    measured = [
        key
        for key in ("top1_error", "balanced_error", "top5_error", "mAP", "macro_f1")
        if key in now
    ]
    return {
        **{f"{key}_before": before[key] for key in measured},
        **{f"{key}_after": now[key] for key in measured},
        f"{'top1_error' if 'top1_error' in now else 'mAP_error'}_rise": rise,
        "max_drop": max_drop,
        "images": after.examples,
        "protocol_before": baseline.protocol,
        "protocol_after": after.protocol,
    }


def sample_images(preprocess: Preprocessor) -> tuple[NDArray[np.uint8], str]:
    """Return ten real images of scikit-learn, preprocessed for a model, and their description."""
    photographs = load_photographs()  # two, 640x427 px
    digits = [(image * 255 / 16).astype(np.uint8) for image in load_digits()[0][:8]]
    # Batch 1: a photograph; batch 2: the other one and a digit; batch 3: digits.
    views = [preprocess.to_tensor(each) for each in (*photographs, *digits)]
    images = torch.stack(views).permute(0, 2, 3, 1).contiguous().numpy()
    return images, "scikit-learn's two sample photographs and eight digits"


def write_verified(
    out: Path,
    kind: ArtifactKind,
    make: Callable[[Path], dict[str, Any]],
    weights: dict[str, Any],
    source: Path | None,
) -> dict[str, Any]:
    """Write `out` and its manifest, which is returned; write nothing if `make` raises.

    make: writes the artifact to a path, verifies it and returns its manifest, to which source,
    versions, date and checksums are added. weights: origin of the model. source: its file.
    """
    if artifact_kind(out) != kind:
        expected = next(suffix for suffix, each in SUFFIXES.items() if each == kind)
        raise ConfigError(f"--out {out}: a file for {kind} ends in {expected}")
    with (
        lock_path(out),
        tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder,
        name_in_errors(out, Path(folder)),
    ):
        artifact = Path(folder, out.name)
        manifest = make(artifact)
        manifest |= {
            "source": {**weights, **_source_checksum(source)},
            "versions": versions(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "sha256": {file.name: file_sha256(file) for file in artifact_files(artifact)},
        }
        dump_json(manifest, manifest_path(artifact))
        for file in (*artifact_files(artifact)[1:], manifest_path(artifact), artifact):
            os.replace(file, out.with_name(file.name))
    return manifest


def _source_checksum(source: Path | None) -> dict[str, str]:
    try:
        return {} if source is None else {"sha256": file_sha256(find_checkpoint(source))}
    except CheckpointError:  # published models are not a single file
        return {}

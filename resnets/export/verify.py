"""Whether an artifact is the net it was made of: equal outputs, and no more errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from resnets.data import Split
from resnets.data.transforms.preprocess import Preprocessor
from resnets.evaluate.truth import Truth
from resnets.models import Net
from resnets.runtime.base import Backend

if TYPE_CHECKING:
    from resnets.evaluate.run import Evaluation

BATCHES = (1, 2, 7)
# Root mean square of the differences of logits over the logits' standard deviation. Measured on a
# net of 6 layers: 3e-7, 0.004, and 0.008 (ONNX Runtime) to 0.02 (OpenVINO); deep ones add up more.
LIMITS = {"float32": 1e-3, "bfloat16": 0.05, "int8": 0.25}
WHOLE = 0.05  # the least LIMITS for whole pictures
MOST_MEASURED = 5000  # pictures whose errors are counted
REFUSED = 3  # exit code of a command that ends with this verdict


class VerificationError(ValueError):
    """An artifact that did not prove itself; the message has the numbers.

    top1_error: in percent, where it was counted.
    """

    def __init__(self, message: str, top1_error: float | None = None) -> None:
        super().__init__(message)
        self.top1_error = top1_error

    @property
    def reason(self) -> str:
        """The message without what came of it."""
        return str(self).removesuffix("; nothing was written")


@dataclass(frozen=True)
class Parity:
    """Logits of an artifact against the net's: largest difference, and relative (see LIMITS)."""

    batch: int
    largest: float
    relative: float
    same_class: int


def reference(net: Net) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Logits (B, K) of the net itself, unfolded, in float32, of pictures (B, size, size, C)."""

    def compute(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
            logits: NDArray[np.float32] = net(net.preprocess.normalise(images)).numpy()
            return logits

    return compute


def compare(net: Net, backend: Backend, pictures: NDArray[np.uint8], limit: float) -> list[Parity]:
    """Outputs at batches of 1, 2 and 7 of the first pictures; Refused where they differ."""
    expected = reference(net)
    rows, start = [], 0
    spread = float(expected(pictures[: sum(BATCHES)]).std()) or 1.0
    for batch in BATCHES:
        part = pictures[start : start + batch]
        start += batch
        wanted, got = expected(part), backend.logits(part)
        difference = np.abs(got - wanted)
        rows.append(
            Parity(
                batch=batch,
                largest=float(difference.max()),
                relative=float(np.sqrt((difference**2).mean())) / spread,
                same_class=int((got.argmax(1) == wanted.argmax(1)).sum()),
            )
        )
        if not rows[-1].relative <= limit:  # NaN is refused too
            raise VerificationError(
                f"{backend.name} does not compute what {net.origin} does: at batch {batch} its"
                f" logits are {rows[-1].relative:.2g} of their spread away, allowed {limit:g}"
                f" (largest difference {rows[-1].largest:.3g}); nothing was written"
            )
    return rows


def compare_whole(net: Net, engine: Any, limit: float) -> dict[str, Any] | None:
    """Whole photographs, scaled and cropped by the graph; None where the graph does not do that.

    Pixels may differ from the decoder's by 3 of 255, so logits may by WHOLE at least.
    """
    from sklearn.datasets import load_sample_images

    limit = max(limit, WHOLE)
    photographs = [photograph[:400, :560] for photograph in load_sample_images().images]
    photographs = [_planes(each, engine.channels) for each in photographs]
    got = [engine.whole(each) for each in photographs]
    if any(each is None for each in got):
        return None
    seen = torch.stack([net.preprocess.picture(each) for each in photographs])
    wanted = reference(net)(seen.permute(0, 2, 3, 1).numpy())
    difference = float(np.sqrt(((np.stack(got) - wanted) ** 2).mean()))
    relative = difference / (float(wanted.std()) or 1.0)
    if not relative <= limit:
        raise VerificationError(
            f"{engine.name} sees other pictures than {net.origin} does where it scales and crops"
            f" them: logits are {relative:.2g} of their spread away, allowed {limit:g};"
            " nothing was written"
        )
    return {"pictures": "two photographs, 560x400 px", "relative": relative, "limit": limit}


def _planes(photograph: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """(H, W, 3) as (H, W, channels)."""
    image = Image.fromarray(photograph).convert("L" if channels == 1 else "RGB")
    return np.array(image).reshape(*photograph.shape[:2], channels)


def count(backend: Backend, split: Split, truth: Truth) -> Evaluation:
    """Top-1 errors of a net or artifact; of a larger split, 5,000 evenly spaced pictures count."""
    chosen = np.linspace(0, len(truth.rows) - 1, min(len(truth.rows), MOST_MEASURED)).astype(int)
    kept = {truth.rows[place] for place in chosen.tolist()}
    few = Truth([each if row in kept else () for row, each in enumerate(truth.labels)], truth.note)
    from resnets.export.score import evaluate_backend  # which a user of artifacts need not await

    return evaluate_backend(backend, split, few).evaluation


def compare_errors(
    name: str, before: Evaluation, after: Evaluation, max_drop: float
) -> dict[str, Any]:
    """Top-1 errors of the net and of the artifact `name` on the same pictures, in percent.

    Refused where the error rises by more than `max_drop` points.
    """
    rise = after.top1_error - before.top1_error
    if not rise <= max_drop:
        raise VerificationError(
            f"{name}: top-1 error rises by {rise:.2f} points, from {before.top1_error:.2f}%"
            f" to {after.top1_error:.2f}% of {after.examples:,} pictures; allowed are {max_drop:g}"
            " (--max-drop); nothing was written",
            after.top1_error,
        )
    return {
        "top1_error_before": before.top1_error,
        "top1_error_after": after.top1_error,
        **(
            {}
            if after.top5_error is None
            else {
                "top5_error_before": before.top5_error,
                "top5_error_after": after.top5_error,
            }
        ),
        "rise": rise,
        "max_drop": max_drop,
        "pictures": after.examples,
        "protocol_before": before.protocol,
        "protocol_after": after.protocol,
    }


def embedded_pictures(preprocess: Preprocessor) -> tuple[NDArray[np.uint8], str]:
    """Ten real pictures that come with scikit-learn, as a net sees them, and what they are."""
    from sklearn.datasets import load_digits, load_sample_images

    photographs = load_sample_images().images  # two, 640x427 px
    digits = [(image * 255 / 16).astype(np.uint8) for image in load_digits().images[:8]]
    # The first batch sees a photograph, the second the other and a digit, the third digits.
    seen = [preprocess.picture(each) for each in (*photographs, *digits)]
    cut = torch.stack(seen).permute(0, 2, 3, 1).contiguous().numpy()
    return cut, "scikit-learn's two sample photographs and eight digits"

"""Export a model of signals as ONNX: write, verify against the model, move into place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from resnets.export.verify import (
    BATCHES,
    LIMITS,
    VerificationError,
    relative_difference,
    write_verified,
)
from resnets.export.write.classifier import check_format
from resnets.export.write.trace import to_onnx, trace
from resnets.sequence.load import SignalNetwork

SIGNALS, LOGITS = "signals", "logits"


def export_signals(
    model: SignalNetwork, out: Path, *, source: Path | None = None
) -> dict[str, Any]:
    """Write a network of signals to `out`, and its manifest; returns the manifest.

    The graph takes float32 signals (N, C, L) as stored in files, and returns logits (N, K). They
    are compared with the network's on random signals with the mean and deviation of the training
    set, at batch sizes 1, 2 and 7. Raises VerificationError if they differ; then nothing is
    written.
    """
    check_format("onnx", "float32")
    channels, length = model.spec.in_channels, model.spec.input_size

    def make(artifact: Path) -> dict[str, Any]:
        _write(model, artifact)
        return {
            "artifact": artifact.name,
            "runtime": "onnx",
            "precision": "float32",
            "parity": {
                "batches": _compare(model, artifact),
                "limit": LIMITS["float32"],
                "images": "random signals",
            },
            "classes": list(model.classes),
            "channels": channels,
            "steps": length,
        }

    return write_verified(out, "onnx", make, {"weights": model.origin}, source)


def _write(model: SignalNetwork, path: Path) -> None:
    import onnx

    example = torch.zeros(2, model.spec.in_channels, model.spec.input_size)
    program = trace(model, (example,), {"x": {0: torch.export.Dim("batch", min=1)}})
    graph = to_onnx(program, [SIGNALS], [LOGITS])
    graph.metadata_props.add(key="classes", value="\n".join(model.classes))
    onnx.save(graph, path)


def _compare(model: SignalNetwork, path: Path) -> list[dict[str, Any]]:
    """Return the relative difference of the logits at each batch size."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    random = torch.Generator().manual_seed(0)
    shape = (model.spec.in_channels, model.spec.input_size)
    rows = []
    for count in BATCHES:
        x = torch.randn(count, *shape, generator=random) * model.std + model.mean
        with torch.inference_mode():
            expected = model(x).numpy()
        relative = relative_difference(session.run(None, {SIGNALS: x.numpy()})[0], expected)
        if not relative <= LIMITS["float32"]:
            raise VerificationError(
                f"{path.name}: differs from the model by {relative:.2g} (limit"
                f" {LIMITS['float32']:g}) at batch size {count}; nothing was written"
            )
        rows.append({"batch": count, "relative": relative})
    return rows

"""A model of signals as an ONNX file, once its outputs are verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnets.config import ConfigError, atomic_write, dump_json
from resnets.export.verify import BATCHES, LIMITS, VerificationError
from resnets.export.write import to_onnx, trace
from resnets.runtime.artifact import file_sha256, manifest_path
from resnets.sequence.load import SignalNetwork, load
from resnets.utils.imports import require_package

SIGNALS, LOGITS = "signals", "logits"


def export_signals(where: str | Path, out: Path) -> dict[str, Any]:
    """Write the network of a run to `out`, and its manifest; returns the manifest.

    The graph reads float32 signals (N, C, L) as files have them, and gives logits (N, K). They are
    compared with the network's on random signals of the training set's means and deviations, at
    batch sizes 1, 2 and 7; VerificationError where they differ, and nothing is written.
    """
    model = load(where)
    if not isinstance(model, SignalNetwork):
        raise ConfigError(f"{where}: only models of images and signals can be exported")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require_package(package, "--to onnx")
    import onnx
    import onnxruntime

    shape = (model.spec.in_channels, model.spec.input_size)
    batch = torch.export.Dim("batch", min=1)
    program = trace(model, (torch.zeros(2, *shape),), {"x": {0: batch}})
    graph = to_onnx(program, [SIGNALS], [LOGITS])
    graph.metadata_props.add(key="classes", value="\n".join(model.classes))
    random = torch.Generator().manual_seed(0)
    with atomic_write(out) as temporary:
        onnx.save(graph, temporary)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        rows = []
        for count in BATCHES:
            x = torch.randn(count, *shape, generator=random) * model.std + model.mean
            with torch.inference_mode():
                expected = model(x).numpy()
            found = session.run(None, {SIGNALS: x.numpy()})[0]
            error = float(np.sqrt(np.square(found - expected).mean()))
            rows.append({"batch": count, "relative": error / (float(expected.std()) or 1.0)})
        worst, limit = max(row["relative"] for row in rows), LIMITS["float32"]
        if not worst <= limit:
            raise VerificationError(
                f"{out}: differs from the model by {worst:.2g} (limit {limit:g}); nothing was"
                " written"
            )
    manifest = {
        "runtime": "ONNX Runtime",
        "precision": "float32",
        "parity": {"batches": rows, "limit": limit, "images": "random signals"},
        "classes": list(model.classes),
        "channels": shape[0],
        "steps": shape[1],
        "weights": model.origin,
        "sha256": {out.name: file_sha256(out)},
    }
    dump_json(manifest, manifest_path(out))
    return manifest

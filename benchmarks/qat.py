"""Quantization-aware fine-tuning of a network whose int8 artifact fails verification.

    python benchmarks/qat.py [--record export-qat]

One channel of two residual units is scaled by --factor and the weights that read it by the inverse:
the function is the same, but 8 bits for the widest channel leave little resolution for the others.
The rows are of the network, of it with its channels equalized, and of it after `resnets train qat`:
whether `resnets export --int8` accepts it, the difference of the int8 logits (root mean square over
the deviation of the model's) and the top-1 errors of float32 and int8 on the validation images.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from recording import Cell, make_parser, report

from resnets.cli.main import main as resnets
from resnets.export.export import gather_evidence
from resnets.export.verify import LIMITS, count_errors, reference_logits, relative_difference
from resnets.export.write.classifier import write_artifact
from resnets.models import ImageClassifier
from resnets.runtime.artifact import ArtifactMetadata
from resnets.runtime.open import open_artifact
from resnets.train.tasks.quantize import equalize_channels
from resnets.weights.folder import save_model
from resnets.weights.load import load_classifier


def main() -> None:
    """Measure the network and both treatments."""
    parser = make_parser(__doc__)
    parser.add_argument("--weights", default="resnets:digits/cifar-resnet20")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--units", nargs="+", default=["stage1.1", "stage2.1"])
    parser.add_argument("--factor", type=float, default=200.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        wide, tuned = Path(temporary, "wide"), Path(temporary, "tuned")
        model = load_classifier(options.weights)
        for name in options.units:
            _widen(model.get_submodule(name), options.factor)
        save_model(model, wide)
        equal = load_classifier(str(wide))
        equalize_channels(equal)
        save_model(equal, Path(temporary, "equal"))
        words = ["train", "qat", str(wide), "--data", options.data, "--out", str(tuned)]
        assert resnets(words) == 0
        rows = [
            _measure("as it is", wide, options.data),
            _measure("channels equalized only", Path(temporary, "equal"), options.data),
            _measure("after `train qat`", tuned, options.data),
        ]
    columns = [
        "the scaled network",
        "`export --to onnx --int8`",
        f"difference of its logits (limit {LIMITS['int8']})",
        "float32 error",
        "int8 error",
    ]
    report(options.record, columns, rows, f"torch {torch.__version__}")


def _widen(unit: Any, factor: float) -> None:
    with torch.no_grad():
        unit.norm1.weight[0] *= factor
        unit.norm1.bias[0] *= factor
        unit.conv2.weight[:, 0] /= factor


def _measure(title: str, weights: Path, data: str) -> list[Cell]:
    out = weights.parent / f"{weights.name}.onnx"
    words = ["export", str(weights), "--to", "onnx", "--int8", "--calibrate", data]
    code = resnets([*words, "--out", str(out)])
    model: ImageClassifier = load_classifier(str(weights))
    evidence = gather_evidence(model, data, "int8")
    assert evidence.calibration is not None
    assert evidence.split is not None
    assert evidence.truth is not None
    assert evidence.baseline is not None
    artifact = weights.parent / f"{weights.name}-unverified.onnx"
    metadata = ArtifactMetadata.from_model(model, "onnx", "int8")
    write_artifact(model, metadata, artifact, evidence.calibration)
    engine = open_artifact(artifact)
    expected = reference_logits(model)(evidence.images)
    difference = relative_difference(engine.logits(evidence.images), expected)
    return [
        title,
        f"{'refused' if code else 'written'} ({code})",
        float(f"{difference:.2g}"),
        round(evidence.baseline().error, 1),
        round(count_errors(engine, evidence.split, evidence.truth).error, 1),
    ]


if __name__ == "__main__":
    main()

"""`resnets.export`: write a model as a verified artifact for another runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

from resnets.api.inputs import AnyWeights, path_or_any_model, task_of
from resnets.api.load import load_any
from resnets.config import ConfigError
from resnets.detect.models.base import DetectionModel
from resnets.export.export import export_classifier
from resnets.export.signals import export_signals
from resnets.export.vision import export_vision
from resnets.models import ImageClassifier
from resnets.runtime.artifact import ArtifactKind, Precision, is_artifact
from resnets.sequence.load import SignalNetwork
from resnets.utils.api_function import api_function
from resnets.utils.errors import refuse_options
from resnets.utils.files.local_paths import output_path
from resnets.utils.printable import echo
from resnets.weights.given import LOADED, copy_for_inference
from resnets.weights.load import LoadOptions

Target = ArtifactKind | Literal["web", "tensorrt"]
SUFFIX: dict[str, str] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torch": ".pt2",
    "executorch": ".pte",
    "tensorrt": "-tensorrt.onnx",
    "web": "-web",
}
PRECISION_SUFFIX: dict[str, str] = {
    "float32": "",
    "bfloat16": "-bf16",
    "float16": "-fp16",
    "int8": "-int8",
}


@dataclass(frozen=True)
class Artifact:
    """An exported model: its file and its manifest, which is stored next to it."""

    path: Path
    manifest: dict[str, Any]

    def __fspath__(self) -> str:
        return str(self.path)


@api_function
def export(
    weights: AnyWeights,
    to: Target = "onnx",
    *,
    precision: Precision = "float32",
    out: str | PathLike[str] | None = None,
    calibrate: str | PathLike[str] | None = None,
    max_drop: float = 0.5,
    model: str | None = None,
    classes: str | Sequence[str] | None = None,
    quiet: bool = False,
) -> Artifact:
    """Export a model to an artifact that takes uint8 images, after verifying its outputs.

        artifact = resnets.export(run, "onnx")
        resnets.predict(artifact, "cat.jpg")

    Args:
        weights: A run, checkpoint, file in a known format, published weights, or a loaded model,
            which is copied.
        to: "onnx" (.onnx), "openvino" (.xml and .bin), "torch" (.pt2, torch.export), "executorch"
            (.pte, for phones and edge devices, with XNNPACK), "tensorrt" (an .onnx file for
            TensorRT) or "web" (a folder with a page that classifies images in the browser with
            model.onnx).
        precision: "float32"; "bfloat16" (openvino, torch); "float16" (tensorrt); "int8" (onnx,
            openvino, executorch, tensorrt, web; requires `calibrate`).
        out: File, or folder for "web", to write. Default: MODEL[-int8|-bf16|-fp16] with the suffix
            of the format, in the run's folder.
        calibrate: Data set for int8 calibration, on which the errors of both models are compared.
        max_drop: Allowed rise of the top-1 error, or drop of AP or mean IoU, in percentage points.
        model: Network of weights that do not specify it (a state dict): a name that `resnets info`
            lists.
        classes: Names of the outputs if the weights have none: a sequence, a file with one name per
            line, "a,b,c", "imagenet" or "numbers".
        quiet: Print nothing.

    Raises VerificationError if the artifact's outputs differ from the model's; then no file is
    written. Also raises ConfigError, DataError, CheckpointError and WeightsError.
    """
    if calibrate is None:
        refuse_options(
            "limits the rise of the error on --calibrate; give both", max_drop=max_drop != 0.5
        )
    given = path_or_any_model(weights)
    source = Path(given) if isinstance(given, str) else None
    if source is not None and is_artifact(source):
        raise ConfigError(f"{source}: is already an artifact; give the run or checkpoint")
    task = task_of(given)
    if task == "text":
        raise ConfigError(
            f"{source or 'weights'}: models of text cannot be exported; give them to"
            " `resnets predict`"
        )
    if task == "signals" and (to != "onnx" or precision != "float32" or calibrate):
        raise ConfigError(
            f"{source or 'weights'}: models of signals can only be exported to onnx, in float32"
        )
    if isinstance(given, str):
        net = load_any(given, LoadOptions(model, classes))
    else:
        refuse_options(LOADED, model=model, classes=classes)
        net = copy_for_inference(given).cpu()  # artifacts are traced and verified there
    if out is None:
        folder = Path()
        if source is not None:
            folder = source if source.is_dir() else source.parent if source.is_file() else folder
        spec = net.net.spec if isinstance(net, DetectionModel) else net.spec
        name = task if task == "signals" else spec.name
        out = folder / f"{name}{PRECISION_SUFFIX[precision]}{SUFFIX[to]}"
    target = output_path(out)

    def log(text: str) -> None:
        if not quiet:
            echo(text, error=True)

    if isinstance(net, SignalNetwork):
        return Artifact(target, export_signals(net, target, source=source))
    data = None if calibrate is None else fspath(calibrate)
    options: dict[str, Any] = {"data": data, "max_drop": max_drop, "source": source, "log": log}
    if to == "web":
        if not isinstance(net, ImageClassifier):
            raise ConfigError("--to web: only for classifiers; use --to onnx for detectors")
        from resnets.export.web import MODEL, export_web

        manifest = export_web(net, precision, target, **options)
        return Artifact(target / MODEL, manifest)
    if isinstance(net, ImageClassifier):
        kind: ArtifactKind = "onnx" if to == "tensorrt" else to
        options["tensorrt"] = to == "tensorrt"
        manifest = export_classifier(net, kind, precision, target, **options)
    elif to == "tensorrt":
        raise ConfigError("--to tensorrt: only for classifiers; use --to onnx for detectors")
    else:
        manifest = export_vision(net, to, precision, target, **options)
    return Artifact(target, manifest)

"""`resnets export`: write a model for another runtime, once its outputs are verified."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from resnets.cli.options import Flag
from resnets.cli.process import log_to_stderr
from resnets.config import ConfigError
from resnets.utils.printable import echo

if TYPE_CHECKING:
    from resnets.runtime.artifact import Precision


def command(
    weights: tyro.conf.Positional[str],
    /,
    model: str | None = None,
    classes: str | None = None,
    to: Literal["onnx", "openvino", "torch", "executorch", "tensorrt", "web"] = "onnx",
    int8: Flag = False,
    bf16: Flag = False,
    fp16: Flag = False,
    calibrate: str | None = None,
    max_drop: float = 0.5,
    out: Path | None = None,
) -> int:
    """Export a model as an artifact that takes uint8 images, once it is verified.

    Its outputs are compared with the model's on real images and, with --calibrate, its errors (AP
    or mean IoU of detectors and segmenters, which can be exported to onnx and openvino). If
    verification fails, nothing is written and the exit code is 3. The measurements are in the
    manifest next to it, ARTIFACT.json.

    Args:
        weights: Run folder, checkpoint, weights file, or published weights (see docs/weights.md).
        model: Architecture of weights that do not specify it (a state dict); a name listed by
            `resnets info`.
        classes: Class names in output order, if the weights do not contain them: a file with one
            per line, a,b,c, imagenet, or numbers for 0, 1, ...
        to: onnx (.onnx, ONNX Runtime), openvino (.xml and .bin), torch (.pt2, torch.export),
            executorch (.pte, for phones and edge devices), tensorrt (.onnx as TensorRT takes it),
            or web (a folder with a page that classifies images in the browser; npm fetches its
            runtime).
        int8: 8-bit weights and activations, of all but torch; needs --calibrate.
        bf16: bfloat16, of openvino and torch; of detectors and segmenters with --calibrate.
        fp16: float16, of tensorrt.
        calibrate: Data set, as for train. int8 is calibrated on its training images; errors are
            counted on its validation or test images.
        max_drop: Largest accepted rise of the top-1 error, or fall of AP or mean IoU, in percentage
            points.
        out: File (folder for web) to write; default: MODEL[-int8|-bf16|-fp16] with the suffix of
            the format, in the run folder.
    """
    if int8 + bf16 + fp16 > 1:
        raise ConfigError("--int8, --bf16 and --fp16 cannot be combined; give one of them")
    from resnets.api.export import export
    from resnets.export.verify import EXIT_VERIFICATION_FAILED, VerificationError

    precision: Precision = "int8" if int8 else "bfloat16" if bf16 else "float32"
    precision = "float16" if fp16 else precision
    log_to_stderr()
    try:
        artifact = export(
            weights,
            to,
            precision=precision,
            out=out,
            calibrate=calibrate,
            max_drop=max_drop,
            model=model,
            classes=classes,
        )
    except VerificationError as error:
        echo(f"resnets export: {error}", error=True)
        return EXIT_VERIFICATION_FAILED
    _print_manifest(artifact.manifest, artifact.path)
    return 0


def _print_manifest(manifest: dict[str, Any], out: Path) -> None:
    from resnets.runtime.artifact import artifact_files

    parity = manifest["parity"]
    size = sum(file.stat().st_size for file in artifact_files(out)) / 1e6
    echo(f"{out}: {manifest['runtime']} {manifest['precision']}, {size:.1f} MB")
    if "agreement" in parity:
        echo(
            f"  outputs: {parity['agreement']:.1%} agree (limit {parity['limit']:.0%}), on"
            f" {parity['compared']} images of {parity['images']}"
        )
    else:
        worst = max(each["relative"] for each in parity["batches"])
        batches = ", ".join(str(each["batch"]) for each in parity["batches"])
        echo(
            f"  outputs: {worst:.2g} relative difference (limit {parity['limit']:g})"
            f" at batch {batches}, on {parity['images']}"
        )
    if metrics := manifest.get("metrics"):
        for name in (each for each in metrics["after"] if each != "error"):
            echo(
                f"  {name}: {metrics['after'][name]:.2f}%, the model's"
                f" {metrics['before'][name]:.2f}%, on {metrics['images']:,} images"
            )
    if page := manifest.get("web"):
        echo(
            f"  page: {page['same_class']} of {page['images']} images of the same class in"
            f" {page['browser']}; serve it with: python -m http.server -d {out.parent}"
        )
    if errors := manifest.get("errors"):
        key, title = ("mAP", "mAP") if "mAP_after" in errors else ("top1_error", "top-1 error")
        echo(
            f"  {title}: {errors[f'{key}_after']:.2f}%, the model's"
            f" {errors[f'{key}_before']:.2f}%, on {errors['images']:,} images"
        )
        if "balanced_error_after" in errors:
            echo(
                f"  balanced error: {errors['balanced_error_after']:.2f}%, the model's"
                f" {errors['balanced_error_before']:.2f}%; macro F1"
                f" {errors['macro_f1_after']:.2f}%, the model's {errors['macro_f1_before']:.2f}%"
            )
    if mixed := manifest.get("mixed"):
        layers = len(mixed["float"]) + mixed["quantized"]
        echo(
            f"  layers in float: {', '.join(mixed['float'])} ({len(mixed['float'])} of"
            f" {layers} layers,"
            f" {mixed['float_multiply_adds']:.0%} of the multiply-adds)"
        )
        echo(f"  all layers in int8: {mixed['all_int8']['failure']}")
        echo(
            f"  speed: {mixed['speed']:.2f}x {mixed['speed_relative_to']}; all layers in int8"
            f" {mixed['speed_all_int8']:.2f}x"
        )
    echo(f"  manifest: {out.name}.json")

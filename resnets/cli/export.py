"""`resnets export`: a net as a file for another runtime, proved equal before it is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from resnets.cli.loading import log_to_stderr
from resnets.config import ConfigError
from resnets.utils.terminal import say

if TYPE_CHECKING:
    from resnets.runtime.artifact import Precision

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def command(
    weights: tyro.conf.Positional[str],
    /,
    model: str | None = None,
    classes: str | None = None,
    to: Literal["onnx", "openvino", "torch"] = "onnx",
    int8: Flag = False,
    bf16: Flag = False,
    calibrate: str | None = None,
    max_drop: float = 0.5,
    out: Path | None = None,
) -> int:
    """Write a net as an artifact that takes uint8 pictures, once it has proved itself.

    Its outputs are compared with the net's on real pictures and, with --calibrate, its errors.
    Where it fails, nothing is written and the exit code is 3. The evidence is in the card beside
    it, ARTIFACT.json.

    Args:
        weights: Run folder, checkpoint, file in a known format, or published weights.
        model: Network of weights that do not say it themselves (a state dict), as `resnets info`
            names it.
        classes: Names of the outputs in order, where the weights do not name them: a file with one
            a line, a,b,c, imagenet, or numbers for 0, 1, ...
        to: onnx (.onnx, ONNX Runtime), openvino (.xml and .bin) or torch (.pt2, torch.export).
        int8: 8-bit weights and activations, of onnx and openvino; needs --calibrate.
        bf16: bfloat16, of openvino and torch.
        calibrate: Data set (as train takes it). Its training pictures give int8 its ranges; on its
            validation or test pictures errors are counted.
        max_drop: Points by which the top-1 error may rise.
        out: File to write; default: NET[-int8|-bf16] with the format's suffix, in the run's folder.
    """
    if int8 and bf16:
        raise ConfigError("--int8 and --bf16 exclude each other")
    from resnets.api.export import export
    from resnets.export.verify import EXIT_VERIFICATION_FAILED, VerificationError

    precision: Precision = "int8" if int8 else "bfloat16" if bf16 else "float32"
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
    except VerificationError as verdict:
        say(f"resnets export: {verdict}", error=True)
        return EXIT_VERIFICATION_FAILED
    _print(artifact.manifest, artifact.path)
    return 0


def _print(card: dict[str, Any], out: Path) -> None:
    from resnets.runtime.artifact import artifact_files

    parity = card["parity"]
    worst = max(each["relative"] for each in parity["batches"])
    batches = ", ".join(str(each["batch"]) for each in parity["batches"])
    size = sum(file.stat().st_size for file in artifact_files(out)) / 1e6
    say(f"{out}: {card['runtime']} {card['precision']}, {size:.1f} MB")
    say(
        f"  outputs: {worst:.2g} of their spread away from the net's (allowed {parity['limit']:g})"
        f" at batch {batches}, on {parity['images']}"
    )
    if errors := card.get("errors"):
        say(
            f"  top-1 error: {errors['top1_error_after']:.2f}%, the net's"
            f" {errors['top1_error_before']:.2f}%, on {errors['images']:,} images"
        )
    if mixed := card.get("mixed"):
        few, rest = len(mixed["float"]), mixed["quantized"]
        say(
            f"  in float: {', '.join(mixed['float'])} ({few} of {few + rest} layers,"
            f" {mixed['float_multiply_adds']:.0%} of the multiply-adds)"
        )
        say(f"  without: {mixed['all_int8']['verdict']}")
        say(
            f"  speed here: {mixed['times']:.2f} x {mixed['times_as_fast_as']}'s; all in int8"
            f" {mixed['times_all_int8']:.2f} x"
        )
    say(f"  card: {out.name}.json")

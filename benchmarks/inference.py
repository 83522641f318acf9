"""Images per second of a classifier: artifacts of resnets and every runtime that is installed.

Contenders run in turn, each in its own process; the others wait without computing.
Since each takes 1 to 2 GB, a few run at a time, always with the one that ratios refer to. Libraries
get normalized float32 images, as their users pass them; resnets gets uint8 images and normalizes in
the graph. Weights are random: speed does not depend on them. Contenders that are not installed or
fail are reported and skipped. Ratios are of contenders in the same round.

    python benchmarks/inference.py [--model resnet50] [--size 224] [--batches 32 1] [--rounds 7]
        [--seconds 2] [--only resnets] [--part memory end-to-end] [--folder DIR]
        [--record inference-memory|inference-files]

Part memory, on decoded images:

eager                torchvision's model, float32, as `model(x)`; ratios are to this contender
timm                 timm's model of that name, the same way
channels_last        torchvision's model, channels last in memory
bf16                 the same with bfloat16 autocast
compiled             torch.compile with freezing, bfloat16, channels last
onnxruntime ...      torchvision's model by torch.onnx.export; int8: quantize_static, QDQ, u8s8
openvino ...         torchvision's model by openvino.convert_model, fixed batch size; int8: NNCF
openvino ..., parts  the same in parts of 4, each on its own thread, as resnets does
resnets: torch       what `resnets predict` uses for a checkpoint and few images
resnets: KIND ...    artifacts of `resnets export`; openvino is what predict and serve use for a
                     checkpoint, in the precision that the accuracy check accepts

Part end-to-end, from JPEG files to classes: see inference_contenders.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import inference_contenders
from jpeg_files import write_images
from recording import Cell, make_parser, report
from timing import (
    answer_requests,
    format_ratio,
    format_spread,
    ratios,
    start_contenders,
    stop_contenders,
    take_turns,
)

MAX_RUNNING = 7  # contenders at a time
PARTS = ("memory", "end-to-end")
TITLES = {  # of contenders in the tables
    "eager": "torchvision, eager float32",
    "bf16": "bfloat16 autocast, channels_last",
    "compiled": "torch.compile with freezing, bfloat16",
    "onnxruntime float32": "ONNX Runtime float32",
    "onnxruntime int8": "ONNX Runtime int8",
    "openvino float32": "OpenVINO float32",
    "openvino bfloat16": "OpenVINO bfloat16",
    "openvino int8": "OpenVINO int8",
    "openvino bfloat16, parts": "OpenVINO bfloat16, in sub-batches as resnets",
    "openvino int8, parts": "OpenVINO int8, in sub-batches as resnets",
    "script": "script: ImageFolder, DataLoader, torchvision, eager float32",
    "script, bf16": "the same, bfloat16 autocast, channels_last",
    "raw decode": "resnets decoding only, all cores, no network",
    "raw openvino int8": "raw OpenVINO int8, batch 32 of prepared float32 tensors",
    "raw openvino int8, streams": "the same with OpenVINO's throughput hint",
    "resnets: decoded images": "resnets, int8, decoded images",
    "resnets: files": "**resnets, int8, from files**",
}


def make_contender(options: dict[str, Any]) -> Callable[[str], float]:
    """Return a function that computes for SECONDS and returns images per second."""
    warnings.simplefilter("ignore")
    folder, arguments = Path(options["folder"]), [options[k] for k in ("name", "model", "size")]
    if options["images"] is None:
        count = options["batch"]
        step = inference_contenders.make_contender(*arguments, count, folder)
    else:
        images = Path(options["images"])
        step, count = inference_contenders.make_end_to_end(*arguments, images, folder)
    for _ in range(3 if options["images"] is None else 1):
        step()

    def measure(seconds: str) -> float:
        steps, start = 0, time.perf_counter()
        while not steps or time.perf_counter() - start < float(seconds):
            step()
            steps += 1
        return steps * count / (time.perf_counter() - start)

    return measure


def measure(
    names: Sequence[str], args: argparse.Namespace, **options: Any
) -> Iterator[dict[str, list[float]]]:
    """Yield images/s in each round of a few contenders at a time, always with the first one."""
    first, *others = names
    others = [each for each in others if args.only is None or args.only in each]
    options |= {"model": args.model, "size": args.size}
    environment = {
        "OMP_NUM_THREADS": str(args.threads),
        "OMP_WAIT_POLICY": "passive",
        "KMP_BLOCKTIME": "0",
    }
    for start in range(0, len(others), MAX_RUNNING - 1):
        group = [first, *others[start : start + MAX_RUNNING - 1]]
        commands = {
            name: [__file__, "--contender", json.dumps({"name": name, **options})] for name in group
        }
        running = start_contenders(commands, dict.fromkeys(group, environment), quiet=True)
        yield take_turns(running, args.seconds, args.rounds)
        stop_contenders(running)


def rate_cells(groups: Iterable[dict[str, list[float]]]) -> dict[str, list[Cell]]:
    """Return the median of images/s and the ratio to the first contender, by contender."""
    found: dict[str, list[Cell]] = {}
    for rates in groups:
        first = next(iter(rates.values()))
        for name, each in rates.items():
            if name not in found:
                found[name] = [round(statistics.median(each), 1), format_ratio(each, first)]
                print(name, *found[name], sep="\t", file=sys.stderr)
    return found


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--part", nargs="+", choices=PARTS, default=PARTS, help="--record needs one"
    )
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 1], help="batch sizes")
    parser.add_argument("--folder", help="folder of class folders; default: images made here")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", help="contenders whose name contains this, besides the first")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        answer_requests(lambda: make_contender(json.loads(args.contender)))
        return
    if args.record is not None and len(args.part) > 1:
        parser.error("--record: give one --part, since a file has one table")
    with tempfile.TemporaryDirectory() as folder:
        if "memory" in args.part:
            compare_in_memory(args, folder)
        if "end-to-end" in args.part:
            compare_from_files(args, folder)


def compare_in_memory(args: argparse.Namespace, folder: str) -> None:
    """Report the rates on decoded images, with two columns for each batch size."""
    names = (*inference_contenders.LIBRARIES, *inference_contenders.PACKAGE)
    columns, cells = [""], list[dict[str, list[Cell]]]()
    for batch in args.batches:
        columns += [f"batch {batch}: images/s", "ratio"]
        cells.append(rate_cells(measure(names, args, batch=batch, folder=folder, images=None)))
    rows = [
        [TITLES.get(name, name), *(cell for each in cells for cell in each.get(name, (None, None)))]
        for name in names
        if any(name in each for each in cells)
    ]
    report(args.record, columns, rows, describe(args))


def compare_from_files(args: argparse.Namespace, folder: str) -> None:
    """Report the rates from JPEG files to classes, and how near they are to their limits."""
    images = args.folder
    if images is None:
        images = str(Path(folder, "images"))
        write_images(Path(images), 400, large=True)
    names = inference_contenders.END_TO_END
    (rates,) = measure(names, args, folder=folder, images=images)
    rows = [[TITLES[name], *cells] for name, cells in rate_cells([rates]).items()]
    report(args.record, ["", "images/s", "ratio to the script"], rows, describe(args))
    if len(rates) == len(names):
        limits = inference_contenders.limits(rates)
        files = rates["resnets: files"]
        report(
            None,
            ["from files, compared with", "ratio"],
            [[name, format_spread(ratios(files, limit))] for name, limit in limits.items()],
        )


def describe(args: argparse.Namespace) -> str:
    """What was measured, besides the options of the command."""
    return f"{args.model}, {args.size} px, {args.threads} threads each, {args.rounds} rounds"


if __name__ == "__main__":
    main()

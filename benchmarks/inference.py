"""Images per second of a classifier: artifacts of resnets and every runtime that is installed.

Contenders run in turn, each in its own process; the others wait without computing.
Since each takes 1 to 2 GB, a few run at a time, always with the one that ratios refer to. Libraries
get normalized float32 images, as their users pass them; resnets gets uint8 images and normalizes in
the graph. Weights are random: speed does not depend on them. Contenders that are not installed or
fail are reported and skipped. Ratios are of contenders in the same round.

    python benchmarks/inference.py [--model resnet50] [--size 224] [--batches 32 1] [--rounds 7]
        [--seconds 2] [--only resnets] [--part memory end-to-end] [--folder DIR]

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
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import inference_contenders
from jpeg_files import write_images
from timing import (
    answer_requests,
    format_spread,
    ratios,
    start_contenders,
    stop_contenders,
    take_turns,
)

MAX_RUNNING = 7  # contenders at a time


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


def print_rates(title: str, first: str, groups: Iterable[dict[str, list[float]]]) -> None:
    """Print a row for each contender: median of images/s, and ratio to the first."""
    print(f"\n{title:<28}images/s    x {first} (min to max)")
    for number, rates in enumerate(groups):
        for name, each in rates.items():
            if number == 0 or name != first:
                ratio = format_spread(ratios(each, rates[first]))
                print(f"{name:<28}{statistics.median(each):>8.1f}      {ratio}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", default=["memory", "end-to-end"])
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
    print(f"{args.model}, {args.size} px, {args.threads} threads, {args.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        for batch in args.batches if "memory" in args.part else ():
            names = (*inference_contenders.LIBRARIES, *inference_contenders.PACKAGE)
            rates = measure(names, args, batch=batch, folder=folder, images=None)
            print_rates(f"batch {batch}", names[0], rates)
        if "end-to-end" in args.part:
            images = args.folder
            if images is None:
                images = str(Path(folder, "images"))
                write_images(Path(images), 400, large=True)
            (rates,) = measure(inference_contenders.END_TO_END, args, folder=folder, images=images)
            print_rates("from files to classes", inference_contenders.END_TO_END[0], [rates])
            if len(rates) == len(inference_contenders.END_TO_END):
                print("\nresnets: files, x")
                for name, limit in inference_contenders.limits(rates).items():
                    print(f"  {name:<58}{format_spread(ratios(rates['resnets: files'], limit))}")


if __name__ == "__main__":
    main()

"""Images a second of a classifier: what this project serves beside every runtime that is installed.

Contenders take turns in one interleaved run, each in a process of its own, since thread pools and
allocators belong to a process; the others wait without computing. So that their memory (1 to 2 GB
each) fits a laptop, a few are alive at a time, the one that ratios refer to always among them.
Peers get normalised float32 pictures, as people hand them over; ours get uint8 pictures and
normalise in the graph. Weights are random: speed does not depend on them. What is not installed, or
fails, is named and left out.
Ratios are of neighbours in time, round by round: the machine's mood cancels.

    python benchmarks/inference.py [--net resnet50] [--size 224] [--batches 32 1] [--rounds 7]
        [--seconds 2] [--only ours] [--part memory end-to-end] [--pictures DIR]

Part memory, pictures that are decoded already:

eager                torchvision's net, float32, as `model(x)`; every ratio is to this one
timm                 timm's net of that name, the same way
channels_last        torchvision's, channels last in memory
bf16                 the same under bfloat16 autocast
compiled             torch.compile with freezing, bfloat16, channels last
onnxruntime ...      torchvision's net through torch.onnx.export; int8: quantize_static, QDQ, u8s8
openvino ...         torchvision's net through openvino.convert_model, of a fixed batch; int8: NNCF
openvino ..., parts  the same in parts of 4, each on a thread of its own, as ours does
ours: torch          what `resnets predict` takes for a checkpoint and few pictures
ours: KIND PRECISION artifacts of `resnets export`; openvino is what predict and serve take for a
                     checkpoint, in the precision that the accuracy gate allows

Part end-to-end, from JPEG files to classes: see end_to_end.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import end_to_end
import inference_peers as peers

ALIVE = 7  # contenders at a time


def work(told: dict[str, Any]) -> None:
    """One process: build and warm up, then compute for so many seconds whenever told to."""
    warnings.simplefilter("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr
    folder = Path(told["folder"])
    what = (told["name"], told["net"], told["size"])
    try:
        if told["pictures"] is None:
            count = told["batch"]
            step = peers.contender(*what, count, folder)
        else:
            step, count = end_to_end.contender(*what, Path(told["pictures"]), folder)
        for _ in range(3 if told["pictures"] is None else 1):
            step()
        print("ready", file=answers, flush=True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:120]
        print(f"{type(error).__name__}: {reason}", file=answers, flush=True)
        return
    for line in sys.stdin:
        steps, start = 0, time.perf_counter()
        while not steps or time.perf_counter() - start < float(line):
            step()
            steps += 1
        print(steps * count / (time.perf_counter() - start), file=answers, flush=True)


def begin(told: dict[str, Any], threads: int) -> Any:
    """The process of one contender once it is ready; None, and a line, where it is not."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "KMP_BLOCKTIME": "0",
    }
    process = subprocess.Popen(
        [sys.executable, __file__, "--work", json.dumps(told)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=environment,
    )  # fmt: skip
    said = process.stdout.readline().strip() if process.stdout else ""
    if said == "ready":
        return process
    process.kill()
    print(f"left out: {told['name']}: {said or 'it ended'}", flush=True)
    return None


def measure(
    names: Sequence[str], args: argparse.Namespace, **told: Any
) -> Iterator[dict[str, list[float]]]:
    """Images/s in each round, a few contenders at a time; the first of `names` is always there."""
    first, *others = names
    others = [each for each in others if args.only is None or args.only in each]
    for start in range(0, len(others), ALIVE - 1):
        some = [first, *others[start : start + ALIVE - 1]]
        yield take_turns(some, args, told | {"net": args.net, "size": args.size})


def take_turns(
    names: Sequence[str], args: argparse.Namespace, told: dict[str, Any]
) -> dict[str, list[float]]:
    started = {name: begin({"name": name, **told}, args.threads) for name in names}
    alive = {name: process for name, process in started.items() if process is not None}
    rates: dict[str, list[float]] = {name: [] for name in alive}
    for _ in range(args.rounds):
        for name, process in alive.items():
            process.stdin.write(f"{args.seconds}\n")
            process.stdin.flush()
            rates[name].append(float(process.stdout.readline()))
    for process in alive.values():
        process.stdin.close()
        process.wait()
    return rates


def show(title: str, first: str, groups: Iterable[dict[str, list[float]]]) -> None:
    """A row each: median of images/s, and of the ratio to the first with its least and most."""
    print(f"\n{title:<28}images/s    x {first} (min to max)")
    for number, rates in enumerate(groups):
        for name, found in rates.items():
            if number == 0 or name != first:
                shown = ratio(found, rates[first])
                print(f"{name:<28}{statistics.median(found):>8.1f}  {shown}", flush=True)


def ratio(found: list[float], base: list[float]) -> str:
    each = [a / b for a, b in zip(found, base, strict=True)]
    return f"{statistics.median(each):>8.2f} ({min(each):.2f} to {max(each):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", default=["memory", "end-to-end"])
    parser.add_argument("--net", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 1])
    parser.add_argument("--pictures", help="folder of class folders; default: made, ImageNet-like")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", help="contenders whose name has this, beside the first")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(json.loads(args.work))
        return
    print(f"{args.net}, {args.size} px, {args.threads} threads, {args.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        for batch in args.batches if "memory" in args.part else ():
            told = {"batch": batch, "folder": folder, "pictures": None}
            names = (*peers.PEERS, *peers.OURS)
            show(f"batch {batch}", names[0], measure(names, args, **told))
        if "end-to-end" in args.part:
            pictures = args.pictures or str(end_to_end.write_pictures(Path(folder), 400))
            (rates,) = measure(end_to_end.NAMES, args, folder=folder, pictures=pictures)
            show("from files to classes", end_to_end.NAMES[0], [rates])
            print("\nours: files, x")
            for name, base in end_to_end.limits(rates).items():
                print(f"  {name:<58}{ratio(rates['ours: files'], base)}")


if __name__ == "__main__":
    main()

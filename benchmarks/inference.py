"""Images a second of a classifier: what this project serves beside every runtime that is installed.

Contenders take turns in one interleaved run, each in a process of its own, since thread pools and
allocators belong to a process; the others wait without computing. Peers get normalised float32
pictures, as people hand them over; ours get uint8 pictures and normalise in the graph. Weights are
random: speed does not depend on them. What is not installed, or fails, is named and left out.

    python benchmarks/inference.py [--net resnet50] [--size 224] [--batches 32 1] [--rounds 7]
        [--seconds 2] [--only ours]

eager                torchvision's net, float32, as `model(x)`; every ratio is to this one
channels_last        the same, channels last in memory
bf16                 the same under bfloat16 autocast
compiled             torch.compile with freezing, bfloat16, channels last
onnxruntime ...      torchvision's net through torch.onnx.export; int8: quantize_static, QDQ, u8s8
openvino ...         torchvision's net through openvino.convert_model, of a fixed batch; int8: NNCF
ours: checkpoint     what `resnets predict` takes for a checkpoint
ours: KIND PRECISION artefacts of `resnets export`, any batch
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PEERS = (
    "eager", "channels_last", "bf16", "compiled", "onnxruntime float32", "onnxruntime int8",
    "openvino float32", "openvino bfloat16", "openvino int8",
)  # fmt: skip
OURS = (
    "ours: checkpoint", "ours: torch bfloat16", "ours: onnx float32", "ours: onnx int8",
    "ours: openvino float32", "ours: openvino bfloat16", "ours: openvino int8",
)  # fmt: skip
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
CALIBRATION = 16

Step = Callable[[], Any]


def torch_peer(name: str, net: str, size: int, batch: int) -> Step:
    import torch
    import torchvision

    model = torchvision.models.get_model(net).eval()
    images = torch.randn(batch, 3, size, size)
    if name != "eager":
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    if name == "compiled":
        import torch._inductor.config as inductor

        inductor.freezing = True
        model = torch.compile(model.to(torch.bfloat16))
        images = images.to(torch.bfloat16)

    def step() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
            model(images)

    return step


def exported_peer(net: str, size: int, folder: Path) -> Path:
    import torch
    import torchvision

    path = folder / "peer.onnx"
    if not path.exists():
        example = torch.randn(2, 3, size, size)
        shapes = ({0: torch.export.Dim("batch", min=1)},)
        model = torchvision.models.get_model(net).eval()
        torch.onnx.export(
            model, (example,), path, input_names=["x"], dynamic_shapes=shapes, external_data=False,
            verbose=False,
        )  # fmt: skip
    return path


def onnx_peer(precision: str, net: str, size: int, batch: int, folder: Path) -> Step:
    import onnxruntime as ort
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    path = exported_peer(net, size, folder)
    if precision == "int8":
        rng = np.random.default_rng(0)

        class Reader:
            left = CALIBRATION

            def get_next(self) -> dict[str, np.ndarray] | None:
                self.left -= 1
                shape = (1, 3, size, size)
                return {"x": rng.normal(size=shape).astype(np.float32)} if self.left >= 0 else None

        made = folder / "peer-int8.onnx"
        if not made.exists():
            quantize_static(
                path, made, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
        path = made
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads()
    session = ort.InferenceSession(path, options, ["CPUExecutionProvider"])
    images = {"x": np.random.default_rng(0).normal(size=(batch, 3, size, size)).astype(np.float32)}
    return lambda: session.run(None, images)


def openvino_peer(precision: str, net: str, size: int, batch: int, folder: Path) -> Step:
    import openvino as ov
    import torch
    import torchvision

    made = folder / "peer-int8.xml"
    images = np.random.default_rng(0).normal(size=(batch, 3, size, size)).astype(np.float32)
    if precision == "int8" and made.exists():
        model = ov.Core().read_model(made)
    else:
        own = torchvision.models.get_model(net).eval()
        model = ov.convert_model(own, example_input=torch.randn(1, 3, size, size))
    if precision == "int8" and not made.exists():
        import nncf

        rng = np.random.default_rng(0)
        pictures = [
            rng.normal(size=(1, 3, size, size)).astype(np.float32) for _ in range(CALIBRATION)
        ]
        model = nncf.quantize(model, nncf.Dataset(pictures), subset_size=CALIBRATION)
        ov.save_model(model, made)
    model.reshape([batch, 3, size, size])
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads(),
    }
    request = ov.compile_model(model, "CPU", hints).create_infer_request()
    return lambda: request.infer({0: images})


def ours(name: str, net: str, size: int, batch: int, folder: Path) -> Step:
    import resnets
    from resnets.config import Preprocess
    from resnets.data import Preprocessor
    from resnets.deploy.artefact import Facts
    from resnets.deploy.engines import TorchEngine, open_artefact
    from resnets.deploy.write import write

    rng = np.random.default_rng(0)
    model = resnets.create_model(net).eval()
    model.preprocess = Preprocessor(Preprocess(size=size, resize=size))
    model.classes = tuple(map(str, range(model.spec.num_classes)))
    pictures = rng.integers(0, 256, (max(batch, CALIBRATION), size, size, 3), dtype=np.uint8)
    what = name.removeprefix("ours: ")
    if what == "checkpoint":
        engine: Any = TorchEngine(model, "cpu")
    else:
        kind, precision = what.split()
        path = folder / f"ours-{precision}{SUFFIXES[kind]}"
        if not path.exists():
            write(model, Facts.of(model, kind, precision), path, pictures[:CALIBRATION])
        engine = open_artefact(path)
    return lambda: engine.logits(pictures[:batch])


def threads() -> int:
    return int(os.environ["OMP_NUM_THREADS"])


def contender(name: str, net: str, size: int, batch: int, folder: Path) -> Step:
    if name.startswith("ours"):
        return ours(name, net, size, batch, folder)
    runtime, _, precision = name.partition(" ")
    if runtime == "onnxruntime":
        return onnx_peer(precision, net, size, batch, folder)
    if runtime == "openvino":
        return openvino_peer(precision, net, size, batch, folder)
    return torch_peer(name, net, size, batch)


def work(told: dict[str, Any]) -> None:
    """One process: build and warm up, then compute for so many seconds whenever told to."""
    warnings.simplefilter("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr
    batch = told["batch"]
    try:
        step = contender(told["name"], told["net"], told["size"], batch, Path(told["folder"]))
        for _ in range(3):
            step()
        print("ready", file=answers, flush=True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:120]
        print(f"{type(error).__name__}: {reason}", file=answers, flush=True)
        return
    for line in sys.stdin:
        count, start = 0, time.perf_counter()
        while not count or time.perf_counter() - start < float(line):
            step()
            count += 1
        print(count * batch / (time.perf_counter() - start), file=answers, flush=True)


def start(name: str, args: argparse.Namespace, batch: int, folder: str) -> Any:
    told = {"name": name, "net": args.net, "size": args.size, "batch": batch, "folder": folder}
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(args.threads),
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
    print(f"left out: {name}: {said or 'it ended'}", flush=True)
    return None


def measure(args: argparse.Namespace, batch: int, folder: str) -> dict[str, list[float]]:
    names = [name for name in (*PEERS, *OURS) if args.only is None or args.only in name]
    names = names if "eager" in names else ["eager", *names]
    started = {name: start(name, args, batch, folder) for name in names}
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


def show(rates: dict[str, list[float]], batch: int) -> None:
    print(f"\nbatch {batch}{'':<17}images/s  spread  x eager")
    base = rates["eager"]
    for name, found in rates.items():
        middle = statistics.median(found)
        spread = (max(found) - min(found)) / middle
        # Each round's ratio is to the eager rate of that round: the machine's mood cancels.
        ratio = statistics.median(a / b for a, b in zip(found, base, strict=True))
        print(f"{name:<26}{middle:>7.1f}{spread:>8.0%}{ratio:>9.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 1])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", help="contenders whose name has this, beside eager")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(json.loads(args.work))
        return
    print(f"{args.net}, {args.size} px, {args.threads} threads, {args.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        for batch in args.batches:
            show(measure(args, batch, folder), batch)


if __name__ == "__main__":
    main()

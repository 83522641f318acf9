"""Throughput and latency of `resnets serve`, a plain FastAPI server and LitServe.

    python benchmarks/serve.py [--model resnet18] [--seconds 5] [--clients 1 8 32] [--overload 3]
        [--artifact FILE] [--only resnets plain litserve] [--record serve-p99]

Each server runs in a process of its own, the clients in this one, over loopback; servers take turns
at each load. Every request is one JPEG of 500 x 375 px. Weights are random: speed does not depend
on them. resnets serves a saved model, or `--artifact` (of `resnets export`). plain: FastAPI and
torchvision in float32, one image at a time. litserve: the same model, batches of up to 32 in 5 ms
(pip install 'resnets[bench]').

The first table has the throughput, the second one, which --record writes, the answers under
overload; docs/results/serve-p99.json has the range of p99 of several runs.

Overload: requests to `resnets serve` arrive at `--overload` times the throughput that was measured,
whether or not earlier ones were answered, with a latency bound of 1 s. Reported are the p99 of
requests that were answered with 200 (goal: at most twice the bound), and the number of requests
that got no answer (goal: none; each is answered with 200 or 503). Latency is measured by the client
from before it connects. Clients and server share the machine: its load average is printed, and the
delay of the clients' event loop, which is part of every latency.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jpeg_files import LARGE, encode, random_image
from recording import Cell, make_parser, report

PLAIN = """
import io, sys, torch, torchvision, uvicorn
from fastapi import FastAPI, Request
from PIL import Image
model = torchvision.models.get_model(sys.argv[1]).eval()
preprocess = torchvision.transforms._presets.ImageClassification(crop_size=224)
app = FastAPI()
def answer(data):
    with torch.inference_mode():
        batch = preprocess(Image.open(io.BytesIO(data)).convert("RGB"))[None]
        best = model(batch).softmax(1)[0].topk(5)
    return {"classes": best.indices.tolist(), "probabilities": best.values.tolist()}
@app.post("/predict")
async def predict(request: Request):
    from starlette.concurrency import run_in_threadpool
    return await run_in_threadpool(answer, await request.body())
uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""
LITSERVE = """
import io, sys, torch, torchvision, litserve
from PIL import Image
class Api(litserve.LitAPI):
    def setup(self, device):
        self.model = torchvision.models.get_model(sys.argv[1]).eval()
        self.preprocess = torchvision.transforms._presets.ImageClassification(crop_size=224)
    def decode_request(self, request):
        import base64
        data = base64.b64decode(request["image"])
        return self.preprocess(Image.open(io.BytesIO(data)).convert("RGB"))
    def batch(self, inputs):
        return torch.stack(inputs)
    def predict(self, x):
        with torch.inference_mode():
            best = self.model(x).softmax(1).topk(5)
        return list(zip(best.indices.tolist(), best.values.tolist()))
    def unbatch(self, output):
        return output
    def encode_response(self, output):
        return {"classes": output[0], "probabilities": output[1]}
if __name__ == "__main__":
    api = Api(max_batch_size=32, batch_timeout=0.005)
    litserve.LitServer(api, accelerator="cpu").run(
        port=int(sys.argv[2]), log_level="error", generate_client_file=False)
"""


def save_model(name: str, folder: Path) -> Path:
    """Save a model with random weights; returns its folder."""
    from resnets import create_model
    from resnets.config import Preprocess

    model = create_model(name)
    classes = [str(number) for number in range(model.spec.num_classes)]
    model.save(folder / name, classes=classes, preprocess=Preprocess())
    return folder / name


def start(kind: str, args: argparse.Namespace, folder: Path) -> tuple[subprocess.Popen, int]:
    """Start a server and wait until it answers; returns its process and port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if kind == "resnets":
        path = args.artifact or save_model(args.model, folder)
        command = ["-m", "resnets", "serve", str(path), "--port", str(port)]
        command += ["--max-latency-ms", str(1000 * args.bound)]
    else:
        script = folder / f"{kind}_server.py"
        script.write_text(PLAIN if kind == "plain" else LITSERVE)
        command = [str(script), args.model, str(port)]
    log = (folder / f"{kind}.log").open("w")
    process = subprocess.Popen(
        [sys.executable, *command], stdout=log, stderr=log, start_new_session=True
    )
    request = make_request(kind, port)
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"{kind} ended: {(folder / f'{kind}.log').read_text()[-2000:]}")
        try:
            if asyncio.run(send_once(port, request))[0] == 200:
                return process, port
        except OSError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"{kind} never answered")


def make_request(kind: str, port: int) -> bytes:
    """Return the HTTP request for one JPEG."""
    body, content_type = encode(random_image(*LARGE)), "application/octet-stream"
    if kind == "litserve":
        import base64
        import json

        body = json.dumps({"image": base64.b64encode(body).decode()}).encode()
        content_type = "application/json"
    head = f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: {content_type}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """Send a request on an open connection; returns the status of the answer."""
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head.split()[1])


async def send_once(port: int, request: bytes) -> tuple[int, float]:
    """Send a request on a new connection; returns status and seconds."""
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await send(reader, writer, request), time.perf_counter() - start
    finally:
        writer.close()


async def closed_loop(
    port: int, request: bytes, clients: int, seconds: float
) -> tuple[float, list[float]]:
    """Run clients that each send a request once the last is answered; images/s and latencies."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (start := time.perf_counter()) < end:
            if await send(reader, writer, request) == 200:
                latencies.append(time.perf_counter() - start)
            else:
                await asyncio.sleep(0.1)
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return len(latencies) / (time.perf_counter() - start), latencies


async def open_loop(
    port: int, request: bytes, rate: float, seconds: float
) -> tuple[list[tuple[int, float]], list[float]]:
    """Send requests at `rate` per second without waiting for answers.

    Returns status (0: no answer) and seconds of each, and how many seconds too late it was sent.
    """

    async def ask() -> tuple[int, float]:
        try:
            return await send_once(port, request)
        except (OSError, asyncio.IncompleteReadError):
            return 0, 0.0

    tasks, late, start = [], [], time.perf_counter()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
        late.append(time.perf_counter() - start - number / rate)
        tasks.append(asyncio.create_task(ask()))
    return list(await asyncio.gather(*tasks)), late


def percentile(seconds: list[float], share: float) -> float:
    """Return a percentile in ms; nan of an empty list."""
    return 1000 * float(np.percentile(seconds, share)) if seconds else float("nan")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--overload", type=float, default=3)
    parser.add_argument("--bound", type=float, default=1.0)
    parser.add_argument("--artifact")
    parser.add_argument("--only", nargs="+", default=["resnets", "plain", "litserve"])
    args = parser.parse_args()
    if args.record is not None and "resnets" not in args.only:
        parser.error("--record: overload is measured of resnets, which --only excludes")
    with tempfile.TemporaryDirectory() as name:
        if "litserve" in args.only and find_spec("litserve") is None:
            print("skipped: litserve; pip install 'resnets[bench]'")
            args.only.remove("litserve")
        servers = {kind: start(kind, args, Path(name)) for kind in args.only}
        try:
            measure(servers, args)
        finally:
            for process, _ in servers.values():
                process.terminate()
            for process, _ in servers.values():
                process.wait(60)
                with suppress(ProcessLookupError):  # LitServe leaves its workers behind
                    os.killpg(process.pid, signal.SIGKILL)


def measure(servers: dict[str, tuple[subprocess.Popen, int]], args: argparse.Namespace) -> None:
    """Report all loads, then the behavior of resnets under overload."""
    rows: list[list[Cell]] = []
    highest = 0.0
    for clients in args.clients:
        speeds = {}
        for kind, (_, port) in servers.items():
            request = make_request(kind, port)
            asyncio.run(closed_loop(port, request, clients, args.seconds / 3))
            rate, latencies = asyncio.run(closed_loop(port, request, clients, args.seconds))
            speeds[kind] = rate, percentile(latencies, 50), percentile(latencies, 99)
            highest = max(highest, rate) if kind == "resnets" else highest
        for kind, (rate, p50, p99) in speeds.items():
            ratio = round(rate / speeds["plain"][0], 2) if "plain" in speeds else None
            rows.append([clients, kind, *(round(each, 1) for each in (rate, p50, p99)), ratio])
    report(None, ["clients", "server", "images/s", "p50, ms", "p99, ms", "to plain"], rows)
    if "resnets" in servers:
        overload(servers["resnets"][1], args.overload * highest, args)


def overload(port: int, rate: float, args: argparse.Namespace) -> None:
    """Report the answers to requests that arrive at `rate` per second."""
    before = os.getloadavg()[0]
    request = make_request("resnets", port)
    answers, late = asyncio.run(open_loop(port, request, rate, 2 * args.seconds))
    accepted = [seconds for status, seconds in answers if status == 200]
    statuses = Counter(status for status, _ in answers)
    p99, bound = percentile(accepted, 99), 1000 * args.bound
    rows: list[list[Cell]] = [
        ["p99 latency of admitted requests, of the bound", round(p99 / bound, 2)],
        [f"the same, ms (the bound: {bound:.0f})", round(p99)],
        ["p50 of the same, ms", round(percentile(accepted, 50))],
        ["requests without an answer", statuses.pop(0, 0)],
        *([f"requests answered with {status}", statuses[status]] for status in sorted(statuses)),
        ["requests were sent late, ms at p99", round(percentile(late, 99))],
    ]
    setup = (
        f"{rate:.0f} requests/s for {2 * args.seconds:.0f} s; load average {before:.1f} before,"
        f" {os.getloadavg()[0]:.1f} after, of {os.cpu_count()} cores"
    )
    report(args.record, [f"at {args.overload:g} times the capacity", "value"], rows, setup)


if __name__ == "__main__":
    main()

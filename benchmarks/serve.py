"""Throughput and latency of `resnets serve` beside a plain FastAPI server and LitServe.

    python benchmarks/serve.py [--net resnet18] [--seconds 5] [--clients 1 8 32] [--overload 3]
        [--artifact FILE] [--only ours plain litserve]

Each server runs in a process of its own, the load in this one, over loopback; servers take turns at
each load. Every request is one JPEG of 500 x 375 px. Weights are random: speed does not depend on
them. Ours serves a checkpoint, or `--artifact` (of `resnets export`). plain: FastAPI and
torchvision in float32, a picture at a time. litserve: the same net, batches of up to 32 in 5 ms.

Overload: requests arrive, whatever was answered, at `--overload` times the throughput just measured
of ours with a latency bound of 1 s; what counts is the p99 of those answered 200 (at most twice the
bound) and that none that was accepted is lost: every request is answered, with 200 or 503. Latency
is the client's, from before it connects. Load and server share the machine: its load average before
and after is printed, and how late the load's own event loop was, which is in every latency.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

PLAIN = """
import io, sys, torch, torchvision, uvicorn
from fastapi import FastAPI, Request
from PIL import Image
net = torchvision.models.get_model(sys.argv[1]).eval()
cut = torchvision.transforms._presets.ImageClassification(crop_size=224)
app = FastAPI()
def answer(data):
    with torch.inference_mode():
        best = net(cut(Image.open(io.BytesIO(data)).convert("RGB"))[None]).softmax(1)[0].topk(5)
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
        self.net = torchvision.models.get_model(sys.argv[1]).eval()
        self.cut = torchvision.transforms._presets.ImageClassification(crop_size=224)
    def decode_request(self, request):
        import base64
        data = base64.b64decode(request["picture"])
        return self.cut(Image.open(io.BytesIO(data)).convert("RGB"))
    def batch(self, inputs):
        return torch.stack(inputs)
    def predict(self, x):
        with torch.inference_mode():
            best = self.net(x).softmax(1).topk(5)
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


def checkpoint(name: str, folder: Path) -> Path:
    """A pushed-like checkpoint of a net with random weights."""
    from resnets import create_model
    from resnets.config import Preprocess, Recipe, to_dict
    from resnets.weights.checkpoint.format import EncodedCheckpoint
    from resnets.weights.checkpoint.store import FolderStore

    net = create_model(name)
    preprocess = Preprocess(size=224, resize=256, channels=3, mean=(0.485, 0.456, 0.406),
                            std=(0.229, 0.224, 0.225))  # fmt: skip
    meta = {
        "step": 0,
        "recipe": to_dict(Recipe(task="classify", model=net.spec)),
        "classes": [str(number) for number in range(net.spec.num_classes)],
        "preprocess": to_dict(preprocess),
    }
    tensors = {f"model/{k}": v for k, v in net.state_dict().items()}
    FolderStore(folder).write(f"{name}.safetensors", EncodedCheckpoint(tensors, meta))
    return folder / f"{name}.safetensors"


def start(kind: str, given: argparse.Namespace, folder: Path) -> tuple[subprocess.Popen, int]:
    """A server that answers, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if kind == "ours":
        where = given.artifact or checkpoint(given.net, folder)
        command = ["-m", "resnets", "serve", str(where), "--port", str(port)]
        command += ["--max-latency-ms", str(1000 * given.bound)]
    else:
        script = folder / f"{kind}_server.py"
        script.write_text(PLAIN if kind == "plain" else LITSERVE)
        command = [str(script), given.net, str(port)]
    log = (folder / f"{kind}.log").open("w")
    process = subprocess.Popen(
        [sys.executable, *command], stdout=log, stderr=log, start_new_session=True
    )
    body = message(kind, port)
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"{kind} ended: {(folder / f'{kind}.log').read_text()[-2000:]}")
        try:
            if asyncio.run(once(port, body))[0] == 200:
                return process, port
        except OSError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"{kind} never answered")


def message(kind: str, port: int) -> bytes:
    """The HTTP request for one JPEG."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(out, "JPEG")
    body, form = out.getvalue(), "application/octet-stream"
    if kind == "litserve":
        import base64
        import json

        body = json.dumps({"picture": base64.b64encode(body).decode()}).encode()
        form = "application/json"
    head = f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: {form}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> int:
    """One request on an open connection; its status."""
    writer.write(body)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head.split()[1])


async def once(port: int, body: bytes) -> tuple[int, float]:
    """Status and seconds of one request on a connection of its own."""
    begun = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await talk(reader, writer, body), time.perf_counter() - begun
    finally:
        writer.close()


async def closed(port: int, body: bytes, clients: int, seconds: float) -> tuple[float, list[float]]:
    """Pictures/s and latencies of clients that each ask again once they are answered."""
    spent: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (begun := time.perf_counter()) < end:
            if await talk(reader, writer, body) == 200:
                spent.append(time.perf_counter() - begun)
            else:
                await asyncio.sleep(0.1)
        writer.close()

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return len(spent) / (time.perf_counter() - begun), spent


async def opened(
    port: int, body: bytes, rate: float, seconds: float
) -> tuple[list[tuple[int, float]], list[float]]:
    """Status and seconds of requests that arrive at `rate`, whatever becomes of them; 0 = lost.

    Also how many seconds too late each was sent.
    """

    async def ask() -> tuple[int, float]:
        try:
            return await once(port, body)
        except (OSError, asyncio.IncompleteReadError):
            return 0, 0.0

    tasks, late, begun = [], [], time.perf_counter()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
        late.append(time.perf_counter() - begun - number / rate)
        tasks.append(asyncio.create_task(ask()))
    return list(await asyncio.gather(*tasks)), late


def percentile(spent: list[float], share: float) -> float:
    """In ms; nan of nothing."""
    return 1000 * float(np.percentile(spent, share)) if spent else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="resnet18")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--overload", type=float, default=3)
    parser.add_argument("--bound", type=float, default=1.0)
    parser.add_argument("--artifact")
    parser.add_argument("--only", nargs="+", default=["ours", "plain", "litserve"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        servers = {kind: start(kind, given, Path(name)) for kind in given.only}
        try:
            measure(servers, given)
        finally:
            for process, _ in servers.values():
                process.terminate()
            for process, _ in servers.values():
                process.wait(60)
                with suppress(ProcessLookupError):  # LitServe leaves its workers behind
                    os.killpg(process.pid, signal.SIGKILL)


def measure(servers: dict[str, tuple[subprocess.Popen, int]], given: argparse.Namespace) -> None:
    """Print the table, then what overload does to ours."""
    print(f"{'clients':>8} {'server':<10}{'pictures/s':>11}{'p50 ms':>9}{'p99 ms':>9}  to plain")
    top = 0.0
    for clients in given.clients:
        speeds = {}
        for kind, (_, port) in servers.items():
            body = message(kind, port)
            asyncio.run(closed(port, body, clients, given.seconds / 3))
            speed, spent = asyncio.run(closed(port, body, clients, given.seconds))
            speeds[kind] = speed, percentile(spent, 50), percentile(spent, 99)
            top = max(top, speed) if kind == "ours" else top
        for kind, (speed, middle, worst) in speeds.items():
            ratio = speed / speeds["plain"][0] if "plain" in speeds else float("nan")
            print(f"{clients:>8} {kind:<10}{speed:>11.1f}{middle:>9.1f}{worst:>9.1f}{ratio:>9.2f}x")
    if "ours" in servers:
        overload(servers["ours"][1], given.overload * top, given)


def overload(port: int, rate: float, given: argparse.Namespace) -> None:
    """Print what becomes of requests that arrive at `rate`."""
    before = os.getloadavg()[0]
    seen, late = asyncio.run(opened(port, message("ours", port), rate, 2 * given.seconds))
    good = [spent for status, spent in seen if status == 200]
    worst, bound = percentile(good, 99), 1000 * given.bound
    print(f"overload {rate:.0f}/s for {2 * given.seconds:.0f} s: "
          f"{dict(Counter(status for status, _ in seen))} (0 = lost),"
          f" accepted p50 {percentile(good, 50):.0f} ms, p99 {worst:.0f} ms,"
          f" {worst / bound:.2f} x the bound of {bound:.0f} ms")  # fmt: skip
    print(f"load average {before:.1f} before, {os.getloadavg()[0]:.1f} after, of {os.cpu_count()}"
          f" cores; requests were sent {percentile(late, 99):.0f} ms late at p99")  # fmt: skip


if __name__ == "__main__":
    main()

"""Valid and hostile requests, clients that disconnect or half-close, and reloads, all at once.

python tests/helpers/serve_mixed.py [REQUESTS] [CLIENTS] prints one line of JSON with the responses
to each kind of request, and one with the server's memory over time. The exit code is 1 if a
response is not as docs/serve.md documents: a 5xx other than 503, a 503 without Retry-After, or a
reset. All connections are on loopback.
"""

import argparse
import gzip
import io
import json
import lzma
import os
import random
import signal
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from image_bombs import BOMBS, avif, scan_bomb
from PIL import Image
from serve_pressure import BODIES, FORM, memory, server
from serve_requests import odd_images, random_request
from serving import encoded_image, save_classifier, save_detector

MEMORY_SAMPLES = 40
SILENT = ("half-close", "malformed")  # may be closed unanswered, as if the client had left
BURST = 40  # connections that are opened at once every 20 reloads

ROUTES = (
    "GET /", "GET /page.js", "GET /models", "GET /docs", "GET /openapi.json", "GET /healthz",
    "GET /readyz", "GET /metrics", "POST /admin/reload", "HEAD /", "OPTIONS *", "GET /favicon.ico",
    "GET /../../etc/passwd", "GET http://localhost/models", "PUT /predict", "GET /predict",
    f"GET /{'a' * 60_000}", f"GET /models?{'a=b&' * 15_000}", "CONNECT localhost:1", "PRI *",
)  # fmt: skip


def post_request(
    body: bytes, content_type: str = "image/png", headers: str = "", path: str = "/predict"
) -> bytes:
    """A whole POST request; `headers` are further lines, each with its line end."""
    lines = (
        f"POST {path} HTTP/1.1",
        "host: localhost",
        "connection: close",
        f"content-type: {content_type}",
    )
    start = "\r\n".join(lines) + f"\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    return start.encode() + body


def hostile_images() -> list[bytes]:
    """Images within the limits that are slowest to decode, and images beyond the limits."""
    images = [avif(7000, 7000), avif(16_000, 4000), avif(320, 240, frames=60)]
    images += [each[: len(each) * 2 // 3] for each in images]
    Image.new("RGB", (7000, 7000)).save(out := io.BytesIO(), "PNG", compress_level=9)
    images += [out.getvalue(), scan_bomb(1500, 450), scan_bomb(500, 5000)]
    images += [BOMBS[name]()[: 2 << 20] for name in ("chunks", "comments")] + odd_images()
    return images


def requests_by_kind() -> dict[str, list[bytes]]:
    """Whole requests by kind."""
    images = [
        encoded_image(seed=n, form=form) for n, form in enumerate(("PNG", "JPEG", "WEBP", "AVIF"))
    ]
    zeros = bytes(20 << 20)
    compressed = {"gzip": gzip.compress(zeros), "xz": lzma.compress(zeros, preset=0)}
    keep_alive = post_request(images[0]).replace(b"connection: close\r\n", b"")
    odd_hosts = (b"host: evil.example", b"host: localhost\r\nhost: localhost", b"host:", b"x: y")
    multipart = b"--b\r\na: b\r\n\r\n" + images[0] + b"\r\n--b--"
    return {
        "valid": [post_request(each) for each in images],
        "valid, detector": [post_request(each, path="/predict?model=finder") for each in images],
        "explain": [post_request(each, path="/explain") for each in images],
        "multipart": [post_request(multipart, FORM)],
        "pipelined": [keep_alive * n + post_request(images[1]) for n in (1, 3, 20)],
        "hostile bodies": [post_request(make(2 << 20), kind) for kind, make in BODIES.values()],
        "hostile images": [post_request(each, "image/*") for each in hostile_images()],
        "compressed": [
            post_request(data, headers=f"content-encoding: {name}\r\n")
            for name, data in compressed.items()
        ],
        "compressed, as images": [post_request(each) for each in compressed.values()],
        "routes": [
            f"{route} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()
            for route in ROUTES
        ],
        "hosts": [post_request(images[0]).replace(b"host: localhost", each) for each in odd_hosts],
    }


def last_status(answer: bytes) -> str:
    """The status of the last response in `answer`; marks a 503 without Retry-After."""
    head, _, body = answer.partition(b"\r\n\r\n")
    while b"HTTP/1.1 " in body and not head.endswith(b"connection: close"):
        last = body.rindex(b"HTTP/1.1 ")
        head, _, body = body[last:].partition(b"\r\n\r\n")
    status = head[9:12].decode("latin-1") or "closed"
    lacks_header = status == "503" and b"retry-after" not in head.lower()
    return "503 without Retry-After" if lacks_header else status


def exchange(address: tuple[str, int], message: bytes, kind: str, rng: random.Random) -> str:
    """Send `message` as clients of this kind do; the status of the response, or the error."""
    answer = b""
    try:
        with socket.create_connection(address, timeout=60) as connection:
            if kind == "disconnect":
                connection.sendall(message[: rng.randrange(1, len(message))])
                if rng.random() < 0.5:
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return "disconnected"
            if kind == "slow":  # one byte at a time at first
                for offset in range(20):
                    connection.sendall(message[offset : offset + 1])
                    time.sleep(0.01)
                message = message[20:]
            with suppress(BrokenPipeError):
                connection.sendall(message)
            if kind in SILENT:
                connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                answer += data
    except OSError as error:
        return f"{type(error).__name__} {answer[9:12].decode('latin-1')}".strip()
    return last_status(answer)


@dataclass
class Load:
    """Clients of a server, the responses to their requests, and the server's memory in MiB."""

    address: tuple[str, int]
    pid: int
    requests: int
    messages: dict[str, list[bytes]]
    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    memory: list[int] = field(default_factory=list)
    started: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send_requests(self, rng: random.Random) -> None:
        """Send requests of random kinds until `requests` have been started."""
        kinds = [*["valid"] * 7, *self.messages, *["malformed"] * 3]
        kinds += ["disconnect", "half-close", "slow"]
        while True:
            with self.lock:
                if self.started >= self.requests:
                    return
                self.started += 1
                if self.started % max(self.requests // MEMORY_SAMPLES, 1) == 0:
                    self.memory.append(memory(self.pid, "VmRSS"))
            self.send_one(rng.choice(kinds), rng)

    def send_one(self, kind: str, rng: random.Random) -> None:
        if kind == "malformed":
            message = random_request(rng)
        elif kind in ("slow", "burst"):
            message = rng.choice(self.messages["valid"])
        elif kind in self.messages:
            message = rng.choice(self.messages[kind])
        else:
            message = rng.choice([*self.messages["valid"], *self.messages["hostile bodies"]])
        status = exchange(self.address, message, kind, rng)
        with self.lock:
            self.statuses.setdefault(kind, Counter())[status] += 1

    def send_burst(self) -> None:
        """Send more valid requests at the same moment than the server admits."""
        with self.lock:
            if self.started + BURST > self.requests:
                return
            self.started += BURST
        threads = [
            threading.Thread(target=self.send_one, args=("burst", random.Random(n)))
            for n in range(BURST)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def violations(self) -> dict[str, dict[str, int]]:
        """Responses that docs/serve.md rules out, by kind of request."""
        found: dict[str, dict[str, int]] = {}
        for kind, counts in self.statuses.items():
            for status, count in counts.items():
                allowed = status in ("200", "503", "disconnected")
                allowed |= status[0] == "4" and len(status) == 3
                if not allowed and not (kind in SILENT and status == "closed"):
                    found.setdefault(kind, {})[status] = count
        return found


def reload_until(done: threading.Event, folder: Path, pid: int, load: Load) -> int:
    """Rewrite the model in place and reload it, repeatedly; every fourth file is damaged."""
    checkpoints = [
        Path(save_classifier(folder / f"{seed}.safetensors", seed)).read_bytes()
        for seed in range(3)
    ]
    reloads = 0
    while not done.wait(0.5):
        contents = b"damaged" if reloads % 4 == 3 else checkpoints[reloads % 3]
        (folder / "net.safetensors").write_bytes(contents)
        os.kill(pid, signal.SIGHUP)
        reloads += 1
        if reloads % 20 == 0:
            load.send_burst()
    return reloads


def main(requests: int, clients: int = 8) -> int:
    with tempfile.TemporaryDirectory() as folder:
        finder = f"finder={save_detector(Path(folder) / 'finder.safetensors')}"
        with server(Path(folder), models=(finder,)) as (host, port, pid):
            load = Load((host, port), pid, requests, requests_by_kind())
            for message in [each for group in load.messages.values() for each in group]:
                exchange(load.address, message, "", random.Random(0))
            before, start, done = memory(pid, "VmRSS"), time.monotonic(), threading.Event()
            threads = [
                threading.Thread(target=load.send_requests, args=(random.Random(n),))
                for n in range(clients)
            ]
            for thread in threads:
                thread.start()
            waiter = threading.Thread(
                target=lambda: [*(each.join() for each in threads), done.set()]
            )
            waiter.start()
            reloads = reload_until(done, Path(folder), pid, load)
            seconds = time.monotonic() - start
            time.sleep(1)
            for kind, counts in sorted(load.statuses.items()):
                print(json.dumps({kind: dict(sorted(counts.items()))}))
            last = exchange(load.address, load.messages["valid"][0], "", random.Random(0))
            summary = {
                "requests": sum(sum(each.values()) for each in load.statuses.values()),
                "seconds": round(seconds),
                "reloads": reloads,
                "afterwards": last,
                "memory before": before,
                "memory after": memory(pid, "VmRSS"),
                "peak": memory(pid, "VmHWM"),
                "files": len(os.listdir(f"/proc/{pid}/fd")),
            }
            print(json.dumps(summary))
            size = max(len(load.memory) // 5, 1)
            fifths = [load.memory[n : n + size] for n in range(0, len(load.memory), size)]
            print(json.dumps({"MiB, medians of fifths": [statistics.median(f) for f in fifths]}))
            violations = load.violations()
            if last != "200":
                violations["afterwards"] = {last: 1}
            print(json.dumps({"violations": violations}))
            return 1 if violations else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser()
    parser.add_argument("requests", nargs="?", type=int, default=4000)
    parser.add_argument("clients", nargs="?", type=int, default=8)
    args = parser.parse_args()
    sys.exit(main(args.requests, args.clients))

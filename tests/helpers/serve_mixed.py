"""Good requests, hostile ones, clients that leave or half-close, and reloads, all at once.

python tests/helpers/serve_mixed.py [REQUESTS] [CLIENTS]: a line of JSON for what became of each
kind of request, one for the memory over time. The exit code is 1 where a promise of docs/serve.md
was broken: another 5xx than 503, a 503 without Retry-After, a reset. Everything on loopback.
"""

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

from avif_images import avif
from PIL import Image
from serve_pressure import BODIES, FORM, memory, server
from serve_requests import odd_images, request_of
from serving import encoded_image, save_classifier, save_detector
from test_open_image import BOMBS, scan_bomb

SAMPLES = 40  # of the memory
BURST = 40  # connections opened at once, now and then

ROUTES = (
    "GET /", "GET /page.js", "GET /models", "GET /docs", "GET /openapi.json", "GET /healthz",
    "GET /readyz", "GET /metrics", "POST /admin/reload", "HEAD /", "OPTIONS *", "GET /favicon.ico",
    "GET /../../etc/passwd", "GET http://localhost/models", "PUT /predict", "GET /predict",
    f"GET /{'a' * 60_000}", f"GET /models?{'a=b&' * 15_000}", "CONNECT localhost:1", "PRI *",
)  # fmt: skip


def posted(body: bytes, kind: str = "image/png", more: str = "", path: str = "/predict") -> bytes:
    lines = (
        f"POST {path} HTTP/1.1",
        "host: localhost",
        "connection: close",
        f"content-type: {kind}",
    )
    start = "\r\n".join(lines) + f"\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return start.encode() + body


def hostile_images() -> list[bytes]:
    """What costs decoders most within the limits, and what is beyond them."""
    found = [avif(7000, 7000), avif(16_000, 4000), avif(320, 240, frames=60)]
    found += [each[: len(each) * 2 // 3] for each in found]
    Image.new("RGB", (7000, 7000)).save(out := io.BytesIO(), "PNG", compress_level=9)
    found += [out.getvalue(), scan_bomb(1500, 450), scan_bomb(500, 5000)]
    found += [BOMBS["chunks"][: 2 << 20], BOMBS["comments"][: 2 << 20], *odd_images()]
    return found


def kinds() -> dict[str, list[bytes]]:
    """Whole requests by kind."""
    good = [
        encoded_image(seed=n, form=form) for n, form in enumerate(("PNG", "JPEG", "WEBP", "AVIF"))
    ]
    big = bytes(20 << 20)
    packed = {"gzip": gzip.compress(big), "xz": lzma.compress(big, preset=0)}
    keep = posted(good[0]).replace(b"connection: close\r\n", b"")
    odd_hosts = (b"host: evil.example", b"host: localhost\r\nhost: localhost", b"host:", b"x: y")
    return {
        "good": [posted(each) for each in good],
        "good, detector": [posted(each, path="/predict?model=finder") for each in good],
        "explain": [posted(each, path="/explain") for each in good],
        "multipart": [posted(b"--b\r\na: b\r\n\r\n" + good[0] + b"\r\n--b--", FORM)],
        "pipelined": [keep * n + posted(good[1]) for n in (1, 3, 20)],
        "hostile bodies": [posted(make(2 << 20), kind) for kind, make in BODIES.values()],
        "hostile images": [posted(each, "image/*") for each in hostile_images()],
        "encoded": [posted(v, more=f"content-encoding: {k}\r\n") for k, v in packed.items()],
        "as images": [posted(each) for each in packed.values()],
        "routes": [
            f"{route} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()
            for route in ROUTES
        ],
        "hosts": [posted(good[0]).replace(b"host: localhost", each) for each in odd_hosts],
    }


def status_of(answer: bytes) -> str:
    """The status of the last answer; a 503 without Retry-After has a note."""
    head, _, body = answer.partition(b"\r\n\r\n")
    while b"HTTP/1.1 " in body and not head.endswith(b"connection: close"):
        last = body.rindex(b"HTTP/1.1 ")
        head, _, body = body[last:].partition(b"\r\n\r\n")
    status = head[9:12].decode("latin-1") or "closed"
    bare = status == "503" and b"retry-after" not in head.lower()
    return "503 without Retry-After" if bare else status


def exchange(address: tuple[str, int], message: bytes, manner: str, chance: random.Random) -> str:
    """The status of the answer, or what befell the connection."""
    answer = b""
    try:
        with socket.create_connection(address, timeout=60) as connection:
            if manner == "leave":
                connection.sendall(message[: chance.randrange(1, len(message))])
                if chance.random() < 0.5:
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return "left"
            if manner == "trickle":  # a byte at a time at first
                for place in range(20):
                    connection.sendall(message[place : place + 1])
                    time.sleep(0.01)
                message = message[20:]
            with suppress(BrokenPipeError):
                connection.sendall(message)
            if manner in ("half-close", "fuzz"):
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                answer += piece
    except OSError as error:
        return f"{type(error).__name__} {answer[9:12].decode('latin-1')}".strip()
    return status_of(answer)


@dataclass
class Load:
    """Clients of a server, what became of their requests, and its memory meanwhile."""

    address: tuple[str, int]
    pid: int
    requests: int
    made: dict[str, list[bytes]]
    seen: dict[str, Counter[str]] = field(default_factory=dict)
    rss: list[int] = field(default_factory=list)
    begun: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, chance: random.Random) -> None:
        """Requests of random kinds until there have been enough."""
        names = [*["good"] * 7, *self.made, *["fuzz"] * 3, "leave", "half-close", "trickle"]
        while True:
            with self.lock:
                if self.begun >= self.requests:
                    return
                self.begun += 1
                if self.begun % max(self.requests // SAMPLES, 1) == 0:
                    self.rss.append(memory(self.pid, "VmRSS"))
            self.one(chance.choice(names), chance)

    def one(self, name: str, chance: random.Random) -> None:
        group = self.made.get(name) or [*self.made["good"], *self.made["hostile bodies"]]
        if name == "trickle":
            group = self.made["good"]
        message = request_of(chance) if name == "fuzz" else chance.choice(group)
        status = exchange(self.address, message, name, chance)
        with self.lock:
            self.seen.setdefault(name, Counter())[status] += 1

    def burst(self) -> None:
        """More good requests at the same moment than are let in."""
        with self.lock:
            if self.begun + BURST > self.requests:
                return
            self.begun += BURST
        asked = [
            threading.Thread(target=self._burst_one, args=(random.Random(n),)) for n in range(BURST)
        ]
        for each in asked:
            each.start()
        for each in asked:
            each.join()

    def _burst_one(self, chance: random.Random) -> None:
        status = exchange(self.address, chance.choice(self.made["good"]), "", chance)
        with self.lock:
            self.seen.setdefault("burst", Counter())[status] += 1

    def broken(self) -> dict[str, dict[str, int]]:
        """Outcomes that docs/serve.md rules out, by kind of request."""
        found: dict[str, dict[str, int]] = {}
        for name, counts in self.seen.items():
            silent = name in ("half-close", "fuzz")  # not told from clients that have left
            for status, count in counts.items():
                fine = status in ("200", "503", "left") or (status[0] == "4" and len(status) == 3)
                if not fine and not (silent and status == "closed"):
                    found.setdefault(name, {})[status] = count
        return found


def reload_until(done: threading.Event, folder: Path, pid: int, load: Load) -> int:
    """Rewrite the model in place and ask for a reload, again and again; every fourth is damaged."""
    nets = [
        Path(save_classifier(folder / f"{seed}.safetensors", seed)).read_bytes()
        for seed in range(3)
    ]
    reloads = 0
    while not done.wait(0.5):
        contents = b"damaged" if reloads % 4 == 3 else nets[reloads % 3]
        (folder / "net.safetensors").write_bytes(contents)
        os.kill(pid, signal.SIGHUP)
        reloads += 1
        if reloads % 20 == 0:
            load.burst()
    return reloads


def main(requests: int = 4000, clients: int = 8) -> int:
    with tempfile.TemporaryDirectory() as folder:
        finder = f"finder={save_detector(Path(folder) / 'finder.safetensors')}"
        with server(Path(folder), models=(finder,)) as (host, port, pid):
            load = Load((host, port), pid, requests, kinds())
            for each in [each for group in load.made.values() for each in group]:
                exchange(load.address, each, "", random.Random(0))
            before, start, done = memory(pid, "VmRSS"), time.monotonic(), threading.Event()
            threads = [
                threading.Thread(target=load.ask, args=(random.Random(n),)) for n in range(clients)
            ]
            for each in threads:
                each.start()
            waiter = threading.Thread(
                target=lambda: [*(each.join() for each in threads), done.set()]
            )
            waiter.start()
            reloads = reload_until(done, Path(folder), pid, load)
            seconds = time.monotonic() - start
            time.sleep(1)
            for name, counts in sorted(load.seen.items()):
                print(json.dumps({name: dict(sorted(counts.items()))}))
            last = exchange(load.address, load.made["good"][0], "", random.Random(0))
            said = {"requests": sum(sum(each.values()) for each in load.seen.values())}
            said |= {"seconds": round(seconds), "reloads": reloads, "afterwards": last}
            said |= {"memory before": before, "memory after": memory(pid, "VmRSS")}
            said |= {"peak": memory(pid, "VmHWM"), "files": len(os.listdir(f"/proc/{pid}/fd"))}
            print(json.dumps(said))
            fifth = max(len(load.rss) // 5, 1)
            fifths = [load.rss[n : n + fifth] for n in range(0, len(load.rss), fifth)]
            print(json.dumps({"MiB, medians of fifths": [statistics.median(f) for f in fifths]}))
            broken = load.broken()
            if last != "200":
                broken["afterwards"] = {last: 1}
            print(json.dumps({"broken promises": broken}))
            return 1 if broken else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(*(int(each) for each in sys.argv[1:3])))

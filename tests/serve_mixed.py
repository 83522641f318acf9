"""Good requests, hostile ones, clients that leave or half-close, and reloads, all at once.

python tests/serve_mixed.py [REQUESTS]: a line of JSON. Everything on loopback.
"""

import gzip
import json
import lzma
import os
import random
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from serve_pressure import BODIES, FORM, memory, server
from serving import picture, save_classifier
from test_serve_fuzz import request_of
from test_serve_pressure import avif

CLIENTS = 8
COUNTS = Counter[str]


def posted(body: bytes, kind: str = "image/png", more: str = "") -> bytes:
    lines = (
        "POST /predict HTTP/1.1",
        "host: localhost",
        "connection: close",
        f"content-type: {kind}",
    )
    start = "\r\n".join(lines) + f"\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return start.encode() + body


def kinds() -> dict[str, list[bytes]]:
    """Whole requests by kind."""
    good = [picture(seed=n, form=form) for n, form in enumerate(("PNG", "JPEG", "WEBP", "AVIF"))]
    bombs = [avif(7000, 7000), avif(16_000, 4000), avif(320, 240, frames=60)]
    bombs += [each[: len(each) * 2 // 3] for each in bombs]
    big = bytes(20 << 20)
    packed = {"gzip": gzip.compress(big), "xz": lzma.compress(big, preset=0)}
    hostile = [posted(make(2 << 20), kind) for kind, make in BODIES.values()]
    return {
        "good": [posted(each) for each in good],
        "multipart": [posted(b"--b\r\na: b\r\n\r\n" + good[0] + b"\r\n--b--", FORM)],
        "hostile bodies": hostile,
        "AVIF bombs": [posted(each, "image/avif") for each in bombs],
        "encoded": [posted(v, more=f"content-encoding: {k}\r\n") for k, v in packed.items()],
        "as images": [posted(each) for each in packed.values()],
    }


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
            with suppress(BrokenPipeError):
                connection.sendall(message)
            if manner in ("half-close", "fuzz"):
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                answer += piece
    except OSError as error:
        return f"{type(error).__name__} {answer[9:12].decode('latin-1')}".strip()
    return answer[9:12].decode("latin-1") or "closed"


def main(requests: int = 4000) -> None:
    seen: dict[str, COUNTS] = {}
    made, lock, left, reloads = kinds(), threading.Lock(), [requests], 0
    names = [*["good"] * 6, *made, "leave", "half-close", "fuzz", "fuzz"]
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as (host, port, pid):
        nets = [
            Path(save_classifier(Path(folder) / f"{seed}.safetensors", seed)).read_bytes()
            for seed in range(3)
        ]
        for each in [each for group in made.values() for each in group]:
            exchange((host, port), each, "", random.Random(0))
        before = memory(pid, "VmRSS")

        def ask(chance: random.Random) -> None:
            while True:
                with lock:
                    left[0] -= 1
                    if left[0] < 0:
                        return
                name = chance.choice(names)
                group = made.get(name) or [*made["good"], *made["hostile bodies"]]
                message = request_of(chance) if name == "fuzz" else chance.choice(group)
                status = exchange((host, port), message, name, chance)
                with lock:
                    seen.setdefault(name, Counter())[status] += 1

        threads = [threading.Thread(target=ask, args=(random.Random(n),)) for n in range(CLIENTS)]
        for each in threads:
            each.start()
        while any(each.is_alive() for each in threads):
            contents = b"damaged" if reloads % 4 == 3 else nets[reloads % 3]
            (Path(folder) / "net.safetensors").write_bytes(contents)
            os.kill(pid, signal.SIGHUP)
            reloads += 1
            time.sleep(0.5)
        time.sleep(1)
        said = {name: dict(sorted(counts.items())) for name, counts in sorted(seen.items())}
        print(json.dumps({"requests": requests, "reloads": reloads, **said}))
        last = exchange((host, port), made["good"][0], "", random.Random(0))
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        said = {"afterwards": last, "memory": [before, memory(pid, "VmRSS")], "files": descriptors}
        print(json.dumps(said))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*(int(each) for each in sys.argv[1:2]))

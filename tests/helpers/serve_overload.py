"""Responses under overload: clients send far more requests than a server can answer.

python tests/helpers/serve_overload.py [CLIENTS] [SECONDS] [OPTION ...]: a line of JSON; options are
those of `resnets serve`. Each client opens a connection for each request, as proxies and scripts
do, sends the whole body, and reads then. Everything on loopback.
"""

import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from serve_pressure import head, memory, server
from serving import encoded_image

SIZES = (20_000, 300_000, 3_000_000)  # bytes


def requests() -> list[bytes]:
    """Images of different sizes in bytes: a small PNG and noise behind it."""
    found = []
    for size in SIZES:
        body = encoded_image(200, 160) + np.random.default_rng(size).bytes(size)
        found.append(
            head("image/png", f"content-length: {len(body)}", "connection: close\r\n") + body
        )
    return found


def exchange(address: tuple[str, int], message: bytes) -> str:
    """Return the status, with + if it has Retry-After, or the error of the connection."""
    answer = b""
    try:
        with socket.create_connection(address, timeout=60) as connection:
            connection.sendall(message)
            while piece := connection.recv(65536):
                answer += piece
    except OSError as error:
        return f"{type(error).__name__} {answer[9:12].decode()}".strip()
    return answer[9:12].decode() + "+" * (b"retry-after" in answer) or "closed"


def main(clients: int = 150, seconds: float = 15.0, *options: str) -> None:
    seen: Counter[str] = Counter()
    messages, lock = requests(), threading.Lock()
    with (
        tempfile.TemporaryDirectory() as folder,
        server(Path(folder), *options) as (host, port, pid),
    ):
        exchange((host, port), messages[0])
        before, end = memory(pid, "VmRSS"), time.monotonic() + seconds

        def ask(number: int) -> None:
            while time.monotonic() < end:
                number += 1
                status = exchange((host, port), messages[number % len(messages)])
                with lock:
                    seen[status] += 1

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(clients)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        last = exchange((host, port), messages[0])
        said = {
            "clients": clients,
            "requests": sum(seen.values()),
            "answers": dict(sorted(seen.items())),
        }
        print(json.dumps(said | {"afterwards": last, "memory": [before, memory(pid, "VmRSS")]}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    numbers = [float(each) for each in sys.argv[1:3]]
    main(*(int(each) for each in numbers[:1]), *numbers[1:], *sys.argv[3:])

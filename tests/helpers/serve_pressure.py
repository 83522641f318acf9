"""Longest pause of a server's event loop, and its memory, while hostile bodies arrive.

python tests/helpers/serve_pressure.py [NAME ...]: one line of JSON for each body. Everything on
loopback.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from serving import save_classifier

SIZE = 32 << 20
JSON, FORM = "application/json", "multipart/form-data; boundary=b"


def filled(start: bytes, unit: bytes, end: bytes) -> Callable[[int], bytes]:
    """`start`, as many `unit` as fit into a number of bytes, `end`."""
    return lambda size: start + unit * ((size - len(start) - len(end)) // len(unit)) + end


def keys(size: int) -> bytes:
    return b"{" + b",".join(b'"%d":0' % n for n in range(size // 12)) + b"}"


BODIES: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "empty lists": (JSON, filled(b"[", b"[],", b"[]]")),
    "deep lists": (JSON, filled(b"", b"[", b"")),
    "deep objects": (JSON, filled(b"", b'{"":', b"")),
    "keys": (JSON, keys),
    "strings": (JSON, filled(b'{"images":["a"', b',"a"', b"]}")),
    "escapes": (JSON, filled(b'{"image":"', b"\\u002b", b'"}')),
    "quotes": (JSON, filled(b'{"image":"', b'\\"', b'"}')),
    "spaces in base64": (JSON, filled(b'{"image":"', b"A ", b'"}')),
    "base64": (JSON, filled(b'{"image":"', b"AAAA", b'"}')),
    "spaces": (JSON, filled(b"", b" ", b"{}")),
    "digits": (JSON, filled(b'{"image":0.', b"1", b"}")),
    "parts": (FORM, filled(b"--b\r\n\r\n", b"\r\n--b\r\n\r\n", b"\r\n--b--\r\n")),
    "part headers": (FORM, filled(b"--b\r\n", b"a: b\r\n", b"\r\nx\r\n--b--\r\n")),
    "a long header": (FORM, filled(b"--b\r\na: ", b"x", b"\r\n\r\nx\r\n--b--\r\n")),
    "nearly boundaries": (FORM, filled(b"--b\r\n\r\n", b"\r\n--bx", b"\r\n--b--\r\n")),
    "line ends": (FORM, filled(b"--b\r\n\r\n", b"\r\n", b"\r\n--b--\r\n")),
    "preamble": (FORM, filled(b"\r\n", b"-\r\n", b"--b--\r\n")),
}


def head(kind: str, framing: str, more: str = "") -> bytes:
    lines = ("POST /predict HTTP/1.1", "host: localhost", f"content-type: {kind}", framing)
    return ("\r\n".join(lines) + f"\r\n{more}\r\n").encode()


def _whole(kind: str, make: Callable[[int], bytes]) -> bytes:
    body = make(SIZE)
    return head(kind, f"content-length: {len(body)}") + body


def messages() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Whole requests by name."""
    for name, (kind, make) in BODIES.items():
        yield name, partial(_whole, kind, make)
    chunked = head("image/png", "transfer-encoding: chunked")
    yield "tiny chunks", lambda: chunked + b"1\r\nx\r\n" * 1_000_000 + b"0\r\n\r\n"
    yield "headers", lambda: head("image/png", "content-length: 0", "a: b\r\n" * 10_000)


def _drain(process: subprocess.Popen[str]) -> None:
    """Read its log; what is no line of it is shown, and an end that nobody asked for."""
    assert process.stderr is not None
    for line in process.stderr:
        if not line.startswith("{") or '"level": "error"' in line:
            sys.stderr.write(line)
    if (code := process.wait()) != -signal.SIGKILL:
        sys.stderr.write(f"the server ended with {code}\n")


@contextmanager
def server(
    folder: Path, *options: str, models: tuple[str, ...] = ()
) -> Iterator[tuple[str, int, int]]:
    """Host, port and process id of `resnets serve` with a small net, and `models` beside it."""
    command = [
        sys.executable,
        "-m",
        "resnets",
        "serve",
        save_classifier(folder / "net.safetensors"),
        *models,
    ]
    command += ["--port", "0", "--backend", "torch", "--device", "cpu", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if '"event": "serving"' in line)
        threading.Thread(target=_drain, args=(process,), daemon=True).start()
        host, port = json.loads(line)["url"].removeprefix("http://").rstrip("/").split(":")
        yield host, int(port), process.pid
    finally:
        process.kill()
        process.wait()


class Probe(threading.Thread):
    """Asks /healthz every 10 ms on one connection; the longest answer in seconds."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(daemon=True)
        self.address, self.worst, self.asked, self.going = (host, port), 0.0, 0, True

    def run(self) -> None:
        with socket.create_connection(self.address, timeout=120) as connection:
            while self.going:
                start = time.monotonic()
                connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
                answer = b""
                while b'{"status"' not in answer:
                    try:
                        piece = connection.recv(65536)
                    except ConnectionResetError:  # no turn for so long that it seemed idle
                        piece = b""
                    if not piece:
                        self.worst = max(self.worst, time.monotonic() - start)
                        return
                    answer += piece
                self.worst = max(self.worst, time.monotonic() - start)
                self.asked += 1
                time.sleep(0.01)


def memory(pid: int, name: str) -> int:
    """MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) >> 10


def post(host: str, port: int, message: bytes) -> str:
    """The status of the answer, or what befell the connection."""
    answer = b""
    with socket.create_connection((host, port), timeout=180) as connection:
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(message)
        try:
            while b"\r\n\r\n" not in answer and (piece := connection.recv(65536)):
                answer += piece
        except (ConnectionResetError, TimeoutError) as error:
            return type(error).__name__
    return answer[9:12].decode() or "closed"


def main(wanted: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as (host, port, pid):
        post(host, port, head("image/png", "content-length: 0"))
        for name, make in messages():
            if wanted and name not in wanted:
                continue
            message = make()
            with suppress(PermissionError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM starts again
            before, probe = memory(pid, "VmRSS"), Probe(host, port)
            probe.start()
            start = time.monotonic()
            status = post(host, port, message)
            spent = time.monotonic() - start
            probe.going = False
            probe.join()
            said = {"body": name, "MiB": len(message) >> 20, "status": status}
            said |= {"seconds": round(spent, 2), "longest pause": round(probe.worst, 3)}
            said["memory"] = [before, memory(pid, "VmHWM")]
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1:])

"""Malformed requests: each gets an error, and the server continues to respond."""

import json
import random
import socket
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from serve_requests import request_of
from serving import Running, encoded_image, running, save_classifier, save_detector, watched_files


def exchange(served: Running, message: bytes) -> bytes:
    """Send all and read until the server closes; one that waits for more is told there is none."""
    answer = b""
    with served.connect() as connection:
        try:
            connection.sendall(message)
            connection.settimeout(0.25)
            while piece := _receive(served, connection):
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            pass  # refused before we had said all
    return answer


def _receive(served: Running, connection: socket.socket) -> bytes:
    while True:
        try:
            return connection.recv(65536)
        except TimeoutError:
            if served.accepted:  # a slow machine at work on the answer
                continue
            connection.settimeout(60)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(65536)


def check(answer: bytes, message: bytes) -> None:
    """No answer (half a request), or one that is good, or a 4xx (or 503) with a JSON reason."""
    head, _, body = answer.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    if not head:
        return
    status = int(head.split()[1])
    assert status == 200 or 400 <= status < 500 or status == 503, (answer, message)
    if status != 200 and not message.startswith(b"HEAD") and body:
        size = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        )
        assert json.loads(body[:size])["error"], (answer, message)


def leave(served: Running, message: bytes, chance: random.Random) -> None:
    """Send a part, or all, and go without an answer."""
    with served.connect() as connection:
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(message[: chance.randrange(1, len(message) + 1)])
        if chance.random() < 0.5:  # no farewell, but a reset
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def attack(path: Path, count: int) -> None:
    seen: dict[bytes, int] = {}
    named = (
        f"net={save_classifier(path / 'net.safetensors')}",
        f"finder={save_detector(path / 'finder.safetensors')}",
    )
    with running(*named, stall=0.5, upload=1 << 20) as served:
        served.connection.idle_timeout = 1.0
        for kind in ("net", "finder"):  # so that nothing is imported for the first time below
            for route in ("/predict", "/explain"):
                served.client.post(f"{route}?model={kind}", content=encoded_image())
        with watched_files() as opened:
            for number in range(count):
                chance = random.Random(number)
                message = request_of(chance)
                if chance.random() < 0.03:
                    leave(served, message, chance)
                    continue
                answer = exchange(served, message)
                check(answer, message)
                seen[answer[9:12]] = seen.get(answer[9:12], 0) + 1
            served.until(lambda: served.accepted == 0 and served.service.intake.readers == 0)
        assert opened == []
        assert served.service.intake.buffered == 0
        for kind in ("net", "finder"):
            good = served.client.post(f"/predict?model={kind}", files={"a": encoded_image()})
            assert good.status_code == 200
        assert b'status="500"' not in served.client.get("/metrics").content
    print(dict(sorted(seen.items())))
    assert all(seen.get(status, 0) > count / 50 for status in (b"200", b"400", b"422")), seen


def test_hundreds_of_malformed_requests(tmp_path: Path):
    attack(tmp_path, 250)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_malformed_requests(tmp_path: Path):
    attack(tmp_path, 10_000)

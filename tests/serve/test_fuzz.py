"""Malformed requests: each gets an error, and the server continues to respond."""

import json
import random
import socket
import struct
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import serve_mixed
from serve_requests import random_request
from serving import Running, encoded_image, running, save_classifier, save_detector, watched_files


def exchange(served: Running, message: bytes) -> bytes:
    """Send `message` and read until the server closes; if it waits for more, end the request."""
    answer = b""
    with served.connect() as connection:
        try:
            connection.sendall(message)
            connection.settimeout(0.25)
            while data := _receive(served, connection):
                answer += data
        except (ConnectionResetError, BrokenPipeError):
            pass  # refused before the whole message was sent
    return answer


def _receive(served: Running, connection: socket.socket) -> bytes:
    while True:
        try:
            return connection.recv(65536)
        except TimeoutError:
            if served.accepted:  # a slow machine still computes the response
                continue
            connection.settimeout(60)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(65536)


def check_response(answer: bytes, message: bytes) -> None:
    """Assert that a response is empty (half a request), 200, or a 4xx or 503 with a JSON reason."""
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


def disconnect(served: Running, message: bytes, rng: random.Random) -> None:
    """Send a part of `message`, or all of it, and close without reading the response."""
    with served.connect() as connection:
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(message[: rng.randrange(1, len(message) + 1)])
        if rng.random() < 0.5:  # a reset instead of an orderly close
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def send_malformed(folder: Path, count: int) -> None:
    """Send `count` requests; assert that no file is opened and no buffer or request remains."""
    statuses: Counter[bytes] = Counter()
    models = (
        f"net={save_classifier(folder / 'net.safetensors')}",
        f"finder={save_detector(folder / 'finder.safetensors')}",
    )
    with running(*models, stall=0.5, upload=1 << 20) as served:
        served.connection.idle_timeout = 1.0
        for model in ("net", "finder"):  # first imports open files
            for route in ("/predict", "/explain"):
                served.client.post(f"{route}?model={model}", content=encoded_image())
        with watched_files() as opened:
            for number in range(count):
                rng = random.Random(number)
                message = random_request(rng)
                if rng.random() < 0.03:
                    disconnect(served, message, rng)
                    continue
                answer = exchange(served, message)
                check_response(answer, message)
                statuses[answer[9:12]] += 1
            served.until(lambda: served.accepted == 0 and served.service.intake.readers == 0)
        assert opened == []
        assert served.service.intake.buffered == 0
        for model in ("net", "finder"):
            valid = served.client.post(f"/predict?model={model}", files={"a": encoded_image()})
            assert valid.status_code == 200
        assert b'status="500"' not in served.client.get("/metrics").content
    print(dict(sorted(statuses.items())))
    assert all(statuses[status] > count / 50 for status in (b"200", b"400", b"422")), statuses


def test_hundreds_of_malformed_requests(tmp_path: Path):
    send_malformed(tmp_path, 250)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_malformed_requests(tmp_path: Path):
    send_malformed(tmp_path, 10_000)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_valid_and_hostile_requests_while_models_are_reloaded():
    assert serve_mixed.main(1000) == 0

"""Malformed requests by the hundred: each gets a reason, and the server goes on answering."""

import base64
import json
import random
import socket
from pathlib import Path

import pytest
from serving import Running, picture, running, save_classifier

FORMS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
PICTURES = [picture(form=form, seed=n) for n, form in enumerate(FORMS)]
PATHS = (
    "/predict", "/explain", "/predict?model=net", "/predict?model=%00", "/predict?top_k=-1",
    "/explain?class=%F0%9F%90%88", "/predict?model=../../../etc/passwd", "/admin/reload", "/models",
    "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page.css%00", "//x", "*", "http://x/predict",
)  # fmt: skip
METHODS = ("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "P\x00ST", "")
TYPES = (
    "image/png", "application/octet-stream", "application/json", "multipart/form-data; boundary=b",
    "multipart/form-data; boundary=", "multipart/form-data", "text/plain", "\xff\xfe", "a" * 9000,
)  # fmt: skip


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, cut off or repeated."""
    piece = bytearray(data)
    for _ in range(chance.randrange(6)):
        kind, place = chance.randrange(3), chance.randrange(len(piece) + 1)
        if kind == 0 and place < len(piece):
            piece[place] = chance.randrange(256)
        elif kind == 1:
            del piece[place : place + chance.randrange(1, 50)]
        else:
            piece[place:place] = chance.randbytes(chance.randrange(30))
    return bytes(piece)


def body_of(chance: random.Random) -> bytes:
    data = damaged(chance.choice(PICTURES), chance)
    kind = chance.randrange(5)
    if kind == 0:
        return chance.randbytes(chance.randrange(300))
    if kind == 1:
        text = base64.b64encode(data).decode()
        value = chance.choice(({"pictures": [text]}, {"picture": text}, [text], {"pictures": 3}))
        return damaged(json.dumps(value).encode(), chance)
    if kind == 2:
        disposition = b'content-disposition: form-data; name="a"; filename="../../x"'
        return damaged(b"--b\r\n" + disposition + b"\r\n\r\n" + data + b"\r\n--b--\r\n", chance)
    return data


def often(chance: random.Random, usual: str, odd: tuple[str, ...]) -> str:
    return usual if chance.random() < 0.7 else chance.choice(odd)


def request_of(chance: random.Random) -> bytes:
    """One request, wrong in some way more often than not."""
    body = body_of(chance)
    lines = [
        f"{often(chance, 'POST', METHODS)} {often(chance, '/predict', PATHS)}"
        f" HTTP/{often(chance, '1.1', ('1.1', '1.0', '9'))}",
        "host: x",
        "connection: close",
    ]
    length: object = len(body)
    if chance.random() < 0.1:
        length = chance.choice((-1, len(body) + 9, 0, 10**30, "x", ""))
    if chance.random() < 0.1:
        lines.append("transfer-encoding: chunked")
        body = damaged(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), chance)
    else:
        lines.append(f"content-length: {length}")
    lines.append(f"content-type: {often(chance, TYPES[1], TYPES)}")
    if chance.random() < 0.1:
        lines.append(chance.choice(("x" * 70_000, "a: b\r\n c", ": x", "expect: 100-continue")))
    message = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
    return damaged(message, chance) if chance.random() < 0.2 else message


def exchange(served: Running, message: bytes) -> bytes:
    """Send all and read until the server closes; one that waits for more is told there is none."""
    answer = b""
    with served.connect() as connection:
        try:
            connection.sendall(message)
            connection.settimeout(0.25)
            while piece := _receive(connection):
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            pass  # refused before we had said all
    return answer


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except TimeoutError:
        connection.settimeout(20)
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


def attack(path: Path, count: int) -> None:
    seen: dict[bytes, int] = {}
    net = save_classifier(path / "net.safetensors")
    with running(f"net={net}", stall=0.5, upload=1 << 20, patience=1.0) as served:
        for number in range(count):
            chance = random.Random(number)
            message = request_of(chance)
            answer = exchange(served, message)
            check(answer, message)
            seen[answer[9:12]] = seen.get(answer[9:12], 0) + 1
        served.until(lambda: served.accepted == 0 and served.work.intake.readers == 0)
        assert served.work.intake.held == 0
        good = served.client.post("/predict", files={"a": picture()})
        assert good.status_code == 200
        assert b'status="500"' not in served.client.get("/metrics").content
    assert all(seen.get(status, 0) > count / 50 for status in (b"200", b"400", b"422")), seen


def test_hundreds_of_malformed_requests(tmp_path: Path):
    attack(tmp_path, 400)


@pytest.mark.slow
def test_ten_thousand_malformed_requests(tmp_path: Path):
    attack(tmp_path, 10_000)

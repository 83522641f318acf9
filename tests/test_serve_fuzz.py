"""Malformed requests by the hundred: each gets a reason, and the server goes on answering."""

import base64
import io
import json
import random
import socket
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import Running, picture, running, save_classifier, save_detector, watched_files

FORMS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
PATHS = (
    "/predict", "/explain", "/predict?model=net", "/predict?model=%00", "/predict?top_k=-1",
    "/explain?class=%F0%9F%90%88", "/predict?model=../../../etc/passwd", "/admin/reload", "/models",
    "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page.css%00", "//x", "*", "http://x/predict",
    "/predict?model=finder", "/predict?model=finder&threshold=0", "/explain?model=finder",
    "/predict?model=file:///etc/passwd", "/etc/passwd", "/page/../../etc/passwd", "/openapi.json",
    "/predict?threshold=nan&top_k=1e9", "/metrics", "/healthz", "/docs", "/", "/explain?class=ant",
)  # fmt: skip
METHODS = ("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "P\x00ST", "")
TYPES = (
    "image/png", "application/octet-stream", "application/json", "multipart/form-data; boundary=b",
    "multipart/form-data; boundary=", "multipart/form-data", "text/plain", "\xff\xfe", "a" * 9000,
)  # fmt: skip
HEADERS = (
    "x" * 70_000, f"x: {'y' * 70_000}", "a: b\r\n c", ": x", "expect: 100-continue", "host: evil",
    "content-encoding: gzip", "transfer-encoding: gzip", "upgrade: websocket", "range: bytes=0-1",
    "content-length: 5", "x-forwarded-host: evil", "authorization: Bearer \xff", "a: \0",
)  # fmt: skip
BOUNDARY = b'--b\r\ncontent-disposition: form-data; name="a"; filename="../../x"\r\n'


def odd_pictures() -> list[bytes]:
    """What decoders stumble over: other modes, moving ones, bombs, pieces."""
    still = Image.open(io.BytesIO(picture()))
    turned = still.rotate(90)
    found = []

    def add(image: Image.Image, form: str, **options) -> None:
        out = io.BytesIO()
        image.save(out, form, **options)
        found.append(out.getvalue())

    add(still.convert("CMYK"), "JPEG")
    add(still.convert("CMYK"), "TIFF")
    add(still.convert("L"), "JPEG", progressive=True)
    add(still.convert("P"), "PNG", transparency=3)
    add(still.convert("1"), "TIFF")
    add(still.convert("LA"), "PNG")
    add(still.convert("F"), "TIFF")
    add(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)), "PNG")
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        add(still, form, save_all=True, append_images=[turned, still] * 3)
    add(Image.new("1", (20_000, 20_000)), "PNG")  # 50 kB that become 400 MB
    add(Image.new("L", (9_000, 9_000)), "TIFF", compression="tiff_deflate")
    add(Image.new("RGB", (1, 1)), "PNG")
    add(Image.new("RGB", (3_000, 1)), "PNG")
    return [*found, picture(form="JPEG")[:200], b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0"]


PICTURES = [*(picture(form=form, seed=n) for n, form in enumerate(FORMS)), *odd_pictures()]
TEXTS = (
    "file:///etc/passwd", "/etc/passwd", "../../etc/passwd", "http://127.0.0.1:1/x.png", "\0", "",
    "data:image/png,abc", "data:image/png;base64,", "====", "A", "\u0130\ud800", "%2e%2e",
)  # fmt: skip


def any_json(chance: random.Random, text: str) -> object:
    """The right shape with a picture or another text, or a wrong shape."""
    said = text if chance.random() < 0.5 else chance.choice(TEXTS)
    return chance.choice(
        (
            *({"pictures": [said]}, {"picture": said}, {"pictures": [said] * chance.randrange(99)}),
            *([said], said, 1, 1e400, None, True, {}, [], {"pictures": {}}, {"picture": [said]}),
            *({"pictures": 3}, {"pictures": None}, {"pictures": [None]}, {"pictures": [[said]]}),
            *({"pictures": [said], "path": "/etc/passwd"}, {"url": said}, {"pictures": [said, 1]}),
        )
    )


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


def body_of(chance: random.Random) -> tuple[str, bytes]:
    """A body and the type it should have."""
    data = damaged(chance.choice(PICTURES), chance)
    kind = chance.randrange(5)
    if kind == 0:
        return TYPES[0], chance.randbytes(chance.randrange(300))
    if kind == 1:
        said = json.dumps(any_json(chance, base64.b64encode(data).decode())).encode()
        return TYPES[2], said if chance.random() < 0.5 else damaged(said, chance)
    if kind == 2:
        parts = (BOUNDARY + b"\r\n" + data + b"\r\n") * chance.choice((1, 1, 1, 2, 99))
        return TYPES[3], damaged(parts + b"--b--\r\n", chance)
    return TYPES[1], data


def often(chance: random.Random, usual: str, odd: tuple[str, ...]) -> str:
    return usual if chance.random() < 0.7 else chance.choice(odd)


def request_of(chance: random.Random) -> bytes:
    """One request, wrong in some way more often than not."""
    kind, body = body_of(chance)
    lines = [
        f"{often(chance, 'POST', METHODS)} {often(chance, '/predict', PATHS)}"
        f" HTTP/{often(chance, '1.1', ('1.1', '1.0', '9'))}",
        "host: localhost",
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
    lines.append(f"content-type: {often(chance, kind, TYPES)}")
    if chance.random() < 0.1:
        lines.append(chance.choice(HEADERS))
    message = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
    return damaged(message, chance) if chance.random() < 0.2 else message


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
        served.connection.patience = 1.0
        for kind in ("net", "finder"):  # so that nothing is imported for the first time below
            for route in ("/predict", "/explain"):
                served.client.post(f"{route}?model={kind}", content=picture())
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
            served.until(lambda: served.accepted == 0 and served.work.intake.readers == 0)
        assert opened == []
        assert served.work.intake.held == 0
        for kind in ("net", "finder"):
            good = served.client.post(f"/predict?model={kind}", files={"a": picture()})
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

"""Requests to the server that are wrong in some way, by a seeded generator."""

import base64
import io
import json
import random

import numpy as np
from PIL import Image
from serving import encoded_image

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


def odd_images() -> list[bytes]:
    """What decoders stumble over: other modes, moving ones, bombs, pieces."""
    still = Image.open(io.BytesIO(encoded_image()))
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
    return [*found, encoded_image(form="JPEG")[:200], b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0"]


IMAGES = [*(encoded_image(form=form, seed=n) for n, form in enumerate(FORMS)), *odd_images()]


TEXTS = (
    "file:///etc/passwd", "/etc/passwd", "../../etc/passwd", "http://127.0.0.1:1/x.png", "\0", "",
    "data:image/png,abc", "data:image/png;base64,", "====", "A", "\u0130\ud800", "%2e%2e",
)  # fmt: skip


def any_json(chance: random.Random, text: str) -> object:
    """The right shape with an image or another text, or a wrong shape."""
    said = text if chance.random() < 0.5 else chance.choice(TEXTS)
    return chance.choice(
        (
            *({"images": [said]}, {"image": said}, {"images": [said] * chance.randrange(99)}),
            *([said], said, 1, 1e400, None, True, {}, [], {"images": {}}, {"image": [said]}),
            *({"images": 3}, {"images": None}, {"images": [None]}, {"images": [[said]]}),
            *({"images": [said], "path": "/etc/passwd"}, {"url": said}, {"images": [said, 1]}),
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
    data = damaged(chance.choice(IMAGES), chance)
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

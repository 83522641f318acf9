"""Malformed requests to the server, drawn from a random generator."""

import base64
import io
import json
import random
from functools import cache

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
    """Images in unusual modes, animations, decompression bombs and truncated files."""
    still = Image.open(io.BytesIO(encoded_image()))
    rotated = still.rotate(90)
    images = []

    def add(image: Image.Image, form: str, **options) -> None:
        out = io.BytesIO()
        image.save(out, form, **options)
        images.append(out.getvalue())

    add(still.convert("CMYK"), "JPEG")
    add(still.convert("CMYK"), "TIFF")
    add(still.convert("L"), "JPEG", progressive=True)
    add(still.convert("P"), "PNG", transparency=3)
    add(still.convert("1"), "TIFF")
    add(still.convert("LA"), "PNG")
    add(still.convert("F"), "TIFF")
    add(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)), "PNG")
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        add(still, form, save_all=True, append_images=[rotated, still] * 3)
    add(Image.new("1", (20_000, 20_000)), "PNG")  # 50 kB that become 400 MB
    add(Image.new("L", (9_000, 9_000)), "TIFF", compression="tiff_deflate")
    add(Image.new("RGB", (1, 1)), "PNG")
    add(Image.new("RGB", (3_000, 1)), "PNG")
    return [*images, encoded_image(form="JPEG")[:200], b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0"]


@cache
def all_images() -> list[bytes]:
    """An image of each format, and odd ones."""
    return [*(encoded_image(form=form, seed=n) for n, form in enumerate(FORMS)), *odd_images()]


TEXTS = (
    "file:///etc/passwd", "/etc/passwd", "../../etc/passwd", "http://127.0.0.1:1/x.png", "\0", "",
    "data:image/png,abc", "data:image/png;base64,", "====", "A", "\u0130\ud800", "%2e%2e",
)  # fmt: skip


def random_json(rng: random.Random, text: str) -> object:
    """JSON of the documented form with `text` or one of TEXTS as an image, or of another form."""
    several, single = rng.choice((("images", "image"), ("pictures", "picture")))  # now, 0.1
    item = text if rng.random() < 0.5 else rng.choice(TEXTS)
    return rng.choice(
        (
            {several: [item]},
            {single: item},
            {several: [item] * rng.randrange(99)},
            [item],
            item,
            1,
            1e400,
            None,
            True,
            {},
            [],
            {several: {}},
            {single: [item]},
            {several: 3},
            {several: None},
            {several: [None]},
            {several: [[item]]},
            {several: [item], "path": "/etc/passwd"},
            {"url": item},
            {several: [item, 1]},
            {"images": [item], "pictures": [item]},
            {several: [item], "top_k": [1e400]},
        )
    )


def damage(data: bytes, rng: random.Random) -> bytes:
    """Change, delete or insert up to five runs of bytes."""
    damaged = bytearray(data)
    for _ in range(rng.randrange(6)):
        kind, offset = rng.randrange(3), rng.randrange(len(damaged) + 1)
        if kind == 0 and offset < len(damaged):
            damaged[offset] = rng.randrange(256)
        elif kind == 1:
            del damaged[offset : offset + rng.randrange(1, 50)]
        else:
            damaged[offset:offset] = rng.randbytes(rng.randrange(30))
    return bytes(damaged)


def random_body(rng: random.Random) -> tuple[str, bytes]:
    """The content type of a random body, and the body."""
    data = damage(rng.choice(all_images()), rng)
    kind = rng.randrange(5)
    if kind == 0:
        return TYPES[0], rng.randbytes(rng.randrange(300))
    if kind == 1:
        text = json.dumps(random_json(rng, base64.b64encode(data).decode())).encode()
        return TYPES[2], text if rng.random() < 0.5 else damage(text, rng)
    if kind == 2:
        parts = (BOUNDARY + b"\r\n" + data + b"\r\n") * rng.choice((1, 1, 1, 2, 99))
        return TYPES[3], damage(parts + b"--b--\r\n", rng)
    return TYPES[1], data


def usually(rng: random.Random, usual: str, odd: tuple[str, ...]) -> str:
    """`usual` with probability 0.7, else one of `odd`."""
    return usual if rng.random() < 0.7 else rng.choice(odd)


def random_request(rng: random.Random) -> bytes:
    """One request, most of which are malformed."""
    kind, body = random_body(rng)
    lines = [
        f"{usually(rng, 'POST', METHODS)} {usually(rng, '/predict', PATHS)}"
        f" HTTP/{usually(rng, '1.1', ('1.1', '1.0', '9'))}",
        "host: localhost",
        "connection: close",
    ]
    length: object = len(body)
    if rng.random() < 0.1:
        length = rng.choice((-1, len(body) + 9, 0, 10**30, "x", ""))
    if rng.random() < 0.1:
        lines.append("transfer-encoding: chunked")
        body = damage(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), rng)
    else:
        lines.append(f"content-length: {length}")
    lines.append(f"content-type: {usually(rng, kind, TYPES)}")
    if rng.random() < 0.1:
        lines.append(rng.choice(HEADERS))
    message = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
    return damage(message, rng) if rng.random() < 0.2 else message

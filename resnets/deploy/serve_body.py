"""From a request's body to the bytes of its pictures, within bounds and in memory only."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from resnets.data.decode import naming
from resnets.data.open_image import CLIENT_FORMATS, open_image
from resnets.deploy.serve_limits import Limits, RefusalError

OVERHEAD = 2048  # bytes of headers allowed to each part of a multipart body
RAW = ("application/octet-stream", "image/", "")


class DisconnectedError(Exception):
    """The client has gone; there is nobody to answer."""


class Intake:
    """The bodies being read or decoded: how many, and their bytes."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.readers, self.held = limits, 0, 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body, held until the block ends.

        RefusalError: 413 once it is larger than allowed (read no further), 408 when the client
        stalls, 503 when the server holds too much already.
        """
        said = request.headers.get("content-length", "")
        if said.isdecimal() and int(said[:20]) > self.limits.upload:
            raise self._too_large()
        if self.readers >= self.limits.readers:
            raise RefusalError(503, "too many uploads at a time; try again later", 1)
        self.readers += 1
        body = bytearray()
        try:
            deadline = time.monotonic() + self.limits.body
            while await self._more(request, body, deadline):
                pass
            yield bytes(body)
        finally:
            self.readers -= 1
            self.held -= len(body)

    async def _more(self, request: Request, body: bytearray, deadline: float) -> bool:
        """Read a piece into `body`; whether there are more."""
        left = min(self.limits.stall, deadline - time.monotonic())
        try:
            message = await asyncio.wait_for(request.receive(), left)
        except TimeoutError:
            raise RefusalError(408, "the body came too slowly") from None
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        piece = message.get("body", b"")
        if len(body) + len(piece) > self.limits.upload:
            raise self._too_large()
        if self.held + len(piece) > self.limits.held:
            raise RefusalError(503, "too many uploads at a time; try again later", 1)
        body += piece
        self.held += len(piece)
        return bool(message.get("more_body", False))

    def _too_large(self) -> RefusalError:
        return RefusalError(
            413, f"the body is larger than {self.limits.upload / (1 << 20):.3g} MiB"
        )


def pictures_of(body: bytes, content_type: str, limits: Limits) -> list[bytes]:
    """The encoded pictures of a body, one or more.

    image/*, application/octet-stream or no type: the body is one picture. multipart/form-data:
    each part is one. application/json: {"pictures": ["<base64>", ...]}, or "picture" with one; a
    data: URL is read as its base64. RefusalError (400, 413, 415) says what is wrong.
    """
    kind, options = parse_options_header(content_type.encode("latin-1", "replace"))
    name = kind.decode("latin-1").strip().lower()
    if name == "multipart/form-data":
        pictures = _parts(body, options.get(b"boundary", b""), limits)
    elif name == "application/json":
        pictures = _from_json(body, limits)
    elif any(name == raw or (raw.endswith("/") and name.startswith(raw)) for raw in RAW):
        pictures = [body]
    else:
        raise RefusalError(
            415,
            "the body is neither a picture (image/*, application/octet-stream) nor"
            " multipart/form-data nor application/json",
        )
    if not pictures:
        raise RefusalError(400, "no picture in the request")
    for number, picture in enumerate(pictures, 1):
        if not picture:
            raise RefusalError(400, f"picture {number} is empty")
    return pictures


def check_picture(data: bytes, name: str, limits: Limits) -> None:
    """Look at the header only; RefusalError 413 for too many pixels, DataError for no picture."""
    with naming(name), open_image(data, CLIENT_FORMATS, max_pixels=None) as image:
        width, height = image.size
    if width * height > limits.pixels:
        raise RefusalError(
            413,
            f"{name}: {width} x {height} px is more than {limits.pixels / 1e6:.3g} megapixels",
        )


def _parts(body: bytes, boundary: bytes, limits: Limits) -> list[bytes]:
    found: list[bytearray] = []
    headers = 0

    def begin() -> None:
        if len(found) == limits.pictures:
            raise _too_many(limits)
        found.append(bytearray())

    def data(piece: bytes, start: int, end: int) -> None:
        found[-1].extend(piece[start:end])

    def header(piece: bytes, start: int, end: int) -> None:
        nonlocal headers
        headers += end - start
        if headers > OVERHEAD * (len(found) + 1):
            raise RefusalError(400, "multipart/form-data: its headers are too long")

    ended = []
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": begin,
                "on_part_data": data,
                "on_header_field": header,
                "on_header_value": header,
                "on_end": lambda: ended.append(True),
            },
        )
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        said = " ".join(str(error).split())
        raise RefusalError(400, f"multipart/form-data: {said}") from None
    if not ended:
        raise RefusalError(400, "multipart/form-data: the closing boundary is missing")
    return [bytes(part) for part in found]


def _from_json(body: bytes, limits: Limits) -> list[bytes]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusalError(400, "the body is not JSON") from None
    if not isinstance(value, dict) or set(value) not in ({"pictures"}, {"picture"}):
        raise RefusalError(400, 'the JSON must be {"pictures": ["<base64>", ...]}')
    texts = value["pictures"] if "pictures" in value else [value["picture"]]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RefusalError(400, '"pictures" must be a list of base64 texts')
    if len(texts) > limits.pictures:
        raise _too_many(limits)
    return [_from_base64(text, number) for number, text in enumerate(texts, 1)]


def _from_base64(text: str, number: int) -> bytes:
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise RefusalError(400, f"picture {number}: its data: URL is not base64")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RefusalError(400, f"picture {number} is not base64") from None


def _too_many(limits: Limits) -> RefusalError:
    return RefusalError(413, f"more than {limits.pictures} pictures in one request")

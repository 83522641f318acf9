"""From a request's body to the bytes of its pictures, within bounds and in memory only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from python_multipart.multipart import parse_options_header

from resnets.data.decode.decode import naming
from resnets.data.decode.open_image import CLIENT_FORMATS, open_image
from resnets.serve.http.limits import Limits, RefusalError
from resnets.serve.http.parse import images_of_json, parts_of

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
            whole, size = bytes(body), len(body)
            body.clear()  # one copy, while it is taken apart
            try:
                yield whole
            finally:
                self.held -= size
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
        pictures = parts_of(body, options.get(b"boundary", b""), limits.pictures)
    elif name == "application/json":
        pictures = images_of_json(body, limits.pictures)
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

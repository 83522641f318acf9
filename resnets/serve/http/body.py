"""Read request bodies and extract their images, within limits and in memory only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from PIL import UnidentifiedImageError
from python_multipart.multipart import parse_options_header

from resnets.data.decode.decode import reading_image
from resnets.data.decode.open_image import CLIENT_FORMATS, is_heif, open_image
from resnets.data.errors import DataError
from resnets.serve.http.limits import Limits, RequestError
from resnets.serve.http.parse_body import Content, parse_json, parse_multipart

HEIC = "HEIC is not accepted; convert it to JPEG"
RAW_TYPES = ("application/octet-stream", "image/", "")


class DisconnectedError(Exception):
    """The client has disconnected."""


class BodyReader:
    """Reads bodies and limits their number and total size."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.readers, self.buffered = limits, 0, 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Read the complete body, which is buffered until the block ends.

        RequestError: 413 if it is too large (reading stops), 408 if the client stalls, 503 if the
        server already buffers too much.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self.limits.upload:
            raise self._too_large()
        if self.readers >= self.limits.readers:
            raise RequestError(503, "too many concurrent uploads; try again later", 1)
        self.readers += 1
        body = bytearray()
        try:
            deadline = time.monotonic() + self.limits.body
            while await self._read_chunk(request, body, deadline):
                pass
            complete, size = bytes(body), len(body)
            body.clear()  # keep one copy only
            try:
                yield complete
            finally:
                self.buffered -= size
        finally:
            self.readers -= 1
            self.buffered -= len(body)

    async def _read_chunk(self, request: Request, body: bytearray, deadline: float) -> bool:
        """Append a chunk to `body`; returns whether there are more."""
        timeout = min(self.limits.stall, deadline - time.monotonic())
        try:
            message = await asyncio.wait_for(request.receive(), timeout)
        except TimeoutError:
            raise RequestError(408, "the body arrived too slowly") from None
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        chunk = message.get("body", b"")
        if len(body) + len(chunk) > self.limits.upload:
            raise self._too_large()
        if self.buffered + len(chunk) > self.limits.total_body_bytes:
            raise RequestError(503, "too many concurrent uploads; try again later", 1)
        body += chunk
        self.buffered += len(chunk)
        return bool(message.get("more_body", False))

    def _too_large(self) -> RequestError:
        return RequestError(
            413, f"the body is larger than {self.limits.upload / (1 << 20):.3g} MiB"
        )


def parse_body(body: bytes, content_type: str, limits: Limits) -> Content:
    """Parse a body: its encoded images, one or more, and its options.

    image/*, application/octet-stream or no type: the body is one image. multipart/form-data: each
    part with a file name is one. application/json: {"images": ["<base64>", ...]}, or "image" with
    one; a data: URL is read as its base64. RequestError (400, 413, 415) says what is wrong.
    """
    media_type, options = parse_options_header(content_type.encode("latin-1", "replace"))
    name = media_type.decode("latin-1").strip().lower()
    if name == "multipart/form-data":
        content = parse_multipart(body, options.get(b"boundary", b""), limits.images)
    elif name == "application/json":
        content = parse_json(body, limits.images)
    elif any(name == raw or (raw.endswith("/") and name.startswith(raw)) for raw in RAW_TYPES):
        content = Content([body], {})
    else:
        raise RequestError(
            415,
            "the body is neither an image (image/*, application/octet-stream) nor"
            " multipart/form-data nor application/json",
        )
    if not content.images:
        raise RequestError(400, "no image in the request")
    for number, image in enumerate(content.images, 1):
        if not image:
            raise RequestError(400, f"image {number} is empty")
    return content


def check_image(data: bytes, name: str, limits: Limits) -> None:
    """Check the header of an image; RequestError: 413 for too many pixels, 422 for its format."""
    try:
        with reading_image(name), open_image(data, CLIENT_FORMATS, max_pixels=None) as image:
            width, height = image.size
    except DataError as error:
        if not isinstance(error.__cause__, UnidentifiedImageError):
            raise
        reason = HEIC if is_heif(data[:64]) else str(error.__cause__)
        accepted = ", ".join(CLIENT_FORMATS)
        raise RequestError(
            422, f"{name}: cannot be read ({reason}); formats accepted: {accepted}"
        ) from None
    if width * height > limits.pixels:
        raise RequestError(
            413,
            f"{name}: {width} x {height} px is more than {limits.pixels / 1e6:.3g} megapixels",
        )

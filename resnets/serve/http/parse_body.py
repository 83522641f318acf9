"""Parse bodies with several images (JSON, multipart) in time linear in their size.

General parsers build whatever the client sends: an object for each of ten million empty lists, a
call for each byte of a part. These accept only what the server supports and stop at the first
error. No single step holds the interpreter lock for longer than a scan of the body, or processes
more than CHUNK_SIZE bytes, so that the event loop is not blocked.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from python_multipart.multipart import parse_options_header

from resnets.config.aliases import REQUEST
from resnets.serve.http.limits import RequestError

CHUNK_SIZE = 1 << 20  # bytes; a multiple of 4
MAX_SKELETON = 1 << 14  # bytes of JSON outside of its strings: brackets, commas, indentation
MAX_PART_HEADERS = 2048  # bytes of headers of one part
OPTIONS = ("model", "top_k", "threshold", "class")  # of a request, in its URL or its body
MAX_OPTION = 1024  # bytes of a value of an option
MAX_OTHER_STRINGS = 1 + 2 * len(OPTIONS)  # of JSON: the key of the images, options and their values
ESCAPES = (  # those of base64 and of line ends
    (b"\\/", b"/"),
    (b"\\n", b" "),
    (b"\\r", b" "),
    (b"\\t", b" "),
    (b"\\u002b", b"+"),
    (b"\\u002B", b"+"),
    (b"\\u002f", b"/"),
    (b"\\u002F", b"/"),
    (b"\\u003d", b"="),
    (b"\\u003D", b"="),
)
PLAIN_ENCODINGS = (b"", b"7bit", b"8bit", b"binary")  # of a part of multipart/form-data
DATA_URL = re.compile(rb"data:[^,]*,")
BASE64_URL = re.compile(rb"data:[^,]*;base64,")
MAX_DATA_URL_HEADER = 1024  # bytes before its data


class Content(NamedTuple):
    """The encoded images of a body, and its options by name."""

    images: list[bytes]
    options: dict[str, str]


def parse_json(body: bytes, limit: int) -> Content:
    """Parse {"images": ["<base64>", ...], "top_k": 3}; "image" for one image; a data: URL is read
    as its base64.

    RequestError (400, 413) where the body is anything else, or has more than `limit` images.
    """
    skeleton, strings = _extract_strings(body, limit)
    try:
        value = json.loads(skeleton)
    except (ValueError, RecursionError):
        raise RequestError(400, "the body is not JSON") from None
    if not isinstance(value, dict):
        raise _wrong_shape()
    fields: dict[str, Any] = {}
    for number, item in value.items():
        name = strings[int(number)].decode("latin-1")
        name = REQUEST.get(name, name)
        if name == "image":
            name, item = "images", [item]
        if name in fields:
            raise RequestError(400, f"the JSON has {name!r} twice")
        fields[name] = item
    if "images" not in fields:
        raise _wrong_shape()
    items = fields.pop("images")
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise RequestError(400, '"images" must be a list of base64 texts')
    if len(items) > limit:
        raise too_many_images(limit)
    options: dict[str, str] = {}
    for name, item in fields.items():
        text = strings[int(item)].decode("utf-8", "replace") if isinstance(item, str) else item
        _add_option(options, name, str(text), "field")
    images = [_decode_base64(strings[int(item)], number) for number, item in enumerate(items, 1)]
    return Content(images, options)


def parse_multipart(body: bytes, boundary: bytes, limit: int) -> Content:
    """Parse a multipart/form-data body (RFC 7578) with `limit` images at most.

    A part without a file name, but with the name of one of OPTIONS, is that option; the others are
    images, in base64 if their Content-Transfer-Encoding says so. RequestError (400, 413) says what
    is wrong.
    """
    if not 0 < len(boundary) <= 70:
        raise _malformed("its boundary must have 1 to 70 characters")
    line = b"\r\n--" + boundary
    if body.startswith(line[2:]):
        offset = len(line) - 2
    else:
        offset = _find(body, line, 0, "no boundary in the body") + len(line)
    images: list[bytes] = []
    options: dict[str, str] = {}
    while not body.startswith(b"--", offset):
        start = _skip_headers(body, offset)
        end = _find(body, line, start - 2, "the closing boundary is missing")
        headers = _parse_headers(body[offset:start])
        option = _parse_option_name(headers)
        encoding = headers.get(b"content-transfer-encoding", b"binary").lower()
        if encoding not in (*PLAIN_ENCODINGS, b"base64"):
            raise _malformed(
                f"Content-Transfer-Encoding {encoding[:40].decode('latin-1')!r}; images are sent"
                " as they are, or in base64"
            )
        if option is not None:
            text = body[start : min(end, start + MAX_OPTION + 1)].decode("utf-8", "replace")
            _add_option(options, option, text, "form field")
        elif len(images) == limit:
            raise too_many_images(limit)
        elif encoding == b"base64":
            encoded = body[start:end].translate(None, b" \t\r\n")
            images.append(_decode_base64(encoded, len(images) + 1))
        else:
            images.append(body[start:end])
        offset = end + len(line)
    return Content(images, options)


def _parse_headers(data: bytes) -> dict[bytes, bytes]:
    """Return the headers of a part by their names in lower case."""
    pairs = (line.partition(b":") for line in data.split(b"\r\n"))
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _parse_option_name(headers: dict[bytes, bytes]) -> str | None:
    """Return the name of a part that is a form field; None for an image."""
    disposition = headers.get(b"content-disposition")
    if disposition is None:
        return None
    fields = parse_options_header(disposition.decode("latin-1"))[1]
    name = fields.get(b"name", b"").decode("utf-8", "replace")
    is_image = b"filename" in fields or REQUEST.get(name, name) in ("image", "images")
    return None if is_image else name


def _add_option(options: dict[str, str], name: str, value: str, kind: str) -> None:
    if name not in OPTIONS:
        raise RequestError(
            400,
            f"unknown {kind} {name[:40]!r}: options are {', '.join(OPTIONS)}; images are"
            ' "images", or parts with a file name',
        )
    if name in options:
        raise RequestError(400, f"the {kind} {name!r} is given twice")
    if len(value) > MAX_OPTION:
        raise RequestError(400, f"the {kind} {name!r} is longer than {MAX_OPTION} bytes")
    options[name] = value


def too_many_images(limit: int) -> RequestError:
    """Return the error for a request with more than `limit` images."""
    return RequestError(413, f"more than {limit} images in one request")


def _extract_strings(body: bytes, limit: int) -> tuple[bytes, list[bytes]]:
    """Replace the strings of `body` by their numbers; also return the strings, still escaped."""
    skeleton, strings, offset = bytearray(), list[bytes](), 0
    while True:
        start = body.find(b'"', offset)
        size = (len(body) if start < 0 else start) - offset
        if len(skeleton) + size > MAX_SKELETON:
            raise _wrong_shape()
        skeleton += body[offset : offset + size]
        if start < 0:
            return bytes(skeleton), strings
        if len(strings) >= limit + MAX_OTHER_STRINGS:
            raise RequestError(413, f"more than {limit} images, or other strings, in the JSON")
        end = body.find(b'"', start + 1)
        if end < 0:
            raise RequestError(400, "the body is not JSON")
        skeleton += b'"%d"' % len(strings)
        # Base64 has no escaped quotes: the string ends here, and is refused as not base64.
        strings.append(body[start + 1 : end])
        offset = end + 1


def _decode_base64(text: bytes, number: int) -> bytes:
    head = text[:MAX_DATA_URL_HEADER].replace(b"\\/", b"/")
    if DATA_URL.match(head):
        if not BASE64_URL.match(head):
            raise RequestError(400, f"image {number}: its data: URL is not base64")
        text = text[text.index(b",") + 1 :]
    unescaped = bytearray().join(_unescape(chunk) for chunk in _split_chunks(text))
    decoded = bytearray()
    try:
        for offset in range(0, len(unescaped), CHUNK_SIZE):
            chunk = unescaped[offset : offset + CHUNK_SIZE]
            if b"=" in chunk and offset + CHUNK_SIZE < len(unescaped):
                raise ValueError("padding before the end")
            decoded += base64.b64decode(chunk, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(400, f"image {number} is not base64") from None
    return bytes(decoded)


def _split_chunks(text: bytes) -> Iterator[bytes]:
    """Split `text` into chunks, none of which ends within an escape of up to 6 bytes."""
    offset = 0
    while offset < len(text):
        end = offset + CHUNK_SIZE
        if end < len(text) and (escape := text.rfind(b"\\", end - 5, end)) >= 0:
            end = escape
        yield text[offset:end]
        offset = end


def _unescape(chunk: bytes) -> bytes:
    if b"\\" in chunk:
        for escape, unescaped in ESCAPES:
            chunk = chunk.replace(escape, unescaped)
    return chunk.replace(b" ", b"")


def _skip_headers(body: bytes, offset: int) -> int:
    """Return where the content begins of the part whose boundary ends at `offset`."""
    head = body[offset : offset + MAX_PART_HEADERS]
    end = head.find(b"\r\n\r\n")
    if not head.lstrip(b" \t").startswith(b"\r\n"):
        raise _malformed("a boundary is not followed by the end of its line")
    if end < 0:
        raise _malformed(f"the headers of a part do not end within {MAX_PART_HEADERS} bytes")
    return offset + end + 4


def _find(body: bytes, pattern: bytes, offset: int, message: str) -> int:
    """Return where `pattern` begins at or after `offset`; RequestError if it is not found."""
    while offset < len(body):
        start = body.find(pattern, offset, offset + CHUNK_SIZE + len(pattern))
        if start >= 0:
            return start
        offset += CHUNK_SIZE
    raise _malformed(message)


def _malformed(reason: str) -> RequestError:
    return RequestError(400, f"multipart/form-data: {reason}")


def _wrong_shape() -> RequestError:
    return RequestError(
        400, 'the JSON must be {"images": ["<base64>", ...]}, and may have options as fields'
    )

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

from resnets.config.aliases import REQUEST
from resnets.serve.http.limits import RequestError

CHUNK_SIZE = 1 << 20  # bytes; a multiple of 4
MAX_SKELETON = 1 << 14  # bytes of JSON outside of its strings: brackets, commas, indentation
MAX_PART_HEADERS = 2048  # bytes of headers of one part
ESCAPES = (  # those of base64 and of line ends
    *((b"\\/", b"/"), (b"\\n", b" "), (b"\\r", b" "), (b"\\t", b" ")),
    *((b"\\u002b", b"+"), (b"\\u002B", b"+"), (b"\\u002f", b"/"), (b"\\u002F", b"/")),
    *((b"\\u003d", b"="), (b"\\u003D", b"=")),
)
DATA_URL = re.compile(rb"data:[^,]*,")
BASE64_URL = re.compile(rb"data:[^,]*;base64,")
MAX_DATA_URL_HEADER = 1024  # bytes before its data


def images_of_json(body: bytes, limit: int) -> list[bytes]:
    """The images of {"images": ["<base64>", ...]}, or "image" with one; a data: URL is read as its
    base64.

    RequestError (400, 413) where the body is anything else, or has more than `limit`.
    """
    skeleton, strings = _without_strings(body, limit)
    try:
        value = json.loads(skeleton)
    except (ValueError, RecursionError):
        raise RequestError(400, "the body is not JSON") from None
    if not isinstance(value, dict) or len(value) != 1:
        raise _wrong_shape()
    ((key, items),) = value.items()
    name = strings[int(key)].decode("latin-1")
    name = REQUEST.get(name, name)
    if name == "image":
        items = [items]
    elif name != "images":
        raise _wrong_shape()
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise RequestError(400, '"images" must be a list of base64 texts')
    if len(items) > limit:
        raise too_many(limit)
    return [_from_base64(strings[int(item)], number) for number, item in enumerate(items, 1)]


def multipart_parts(body: bytes, boundary: bytes, limit: int) -> list[bytes]:
    """The contents of the parts of a multipart body (RFC 2046), `limit` at most.

    RequestError (400, 413) says what is wrong.
    """
    if not 0 < len(boundary) <= 70:
        raise _malformed("its boundary must have 1 to 70 characters")
    line = b"\r\n--" + boundary
    if body.startswith(line[2:]):
        offset = len(line) - 2
    else:
        offset = _find(body, line, 0, "no boundary in the body") + len(line)
    parts: list[bytes] = []
    while not body.startswith(b"--", offset):
        if len(parts) == limit:
            raise too_many(limit)
        start = _skip_headers(body, offset)
        end = _find(body, line, start - 2, "the closing boundary is missing")
        parts.append(body[start:end])
        offset = end + len(line)
    return parts


def too_many(limit: int) -> RequestError:
    """For a request with more than `limit` images."""
    return RequestError(413, f"more than {limit} images in one request")


def _without_strings(body: bytes, limit: int) -> tuple[bytes, list[bytes]]:
    """`body` with its strings replaced by their numbers, and the strings, still escaped."""
    skeleton, strings, offset = bytearray(), list[bytes](), 0
    while True:
        start = body.find(b'"', offset)
        size = (len(body) if start < 0 else start) - offset
        if len(skeleton) + size > MAX_SKELETON:
            raise _wrong_shape()
        skeleton += body[offset : offset + size]
        if start < 0:
            return bytes(skeleton), strings
        if len(strings) > limit:  # one of them is the key
            raise RequestError(413, f"more than {limit} images, or other strings, in the JSON")
        end = body.find(b'"', start + 1)
        if end < 0:
            raise RequestError(400, "the body is not JSON")
        skeleton += b'"%d"' % len(strings)
        # An escaped quote is part of no base64: the string ends here, and is refused as none.
        strings.append(body[start + 1 : end])
        offset = end + 1


def _from_base64(text: bytes, number: int) -> bytes:
    head = text[:MAX_DATA_URL_HEADER].replace(b"\\/", b"/")
    if DATA_URL.match(head):
        if not BASE64_URL.match(head):
            raise RequestError(400, f"image {number}: its data: URL is not base64")
        text = text[text.index(b",") + 1 :]
    unescaped = bytearray().join(_unescaped(chunk) for chunk in _chunks(text))
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


def _chunks(text: bytes) -> Iterator[bytes]:
    """`text` in pieces, none of which ends within an escape of up to 6 bytes."""
    offset = 0
    while offset < len(text):
        end = offset + CHUNK_SIZE
        if end < len(text) and (escape := text.rfind(b"\\", end - 5, end)) >= 0:
            end = escape
        yield text[offset:end]
        offset = end


def _unescaped(chunk: bytes) -> bytes:
    if b"\\" in chunk:
        for escape, unescaped in ESCAPES:
            chunk = chunk.replace(escape, unescaped)
    return chunk.replace(b" ", b"")


def _skip_headers(body: bytes, offset: int) -> int:
    """Where the content of the part begins whose boundary ends at `offset`."""
    head = body[offset : offset + MAX_PART_HEADERS]
    end = head.find(b"\r\n\r\n")
    if not head.lstrip(b" \t").startswith(b"\r\n"):
        raise _malformed("a boundary is not followed by the end of its line")
    if end < 0:
        raise _malformed(f"the headers of a part do not end within {MAX_PART_HEADERS} bytes")
    return offset + end + 4


def _find(body: bytes, pattern: bytes, offset: int, message: str) -> int:
    """Where `pattern` begins at `offset` or behind it; RequestError where nowhere."""
    while offset < len(body):
        items = body.find(pattern, offset, offset + CHUNK_SIZE + len(pattern))
        if items >= 0:
            return items
        offset += CHUNK_SIZE
    raise _malformed(message)


def _malformed(reason: str) -> RequestError:
    return RequestError(400, f"multipart/form-data: {reason}")


def _wrong_shape() -> RequestError:
    return RequestError(400, 'the JSON must be {"images": ["<base64>", ...]}')

"""The two forms of a body with several images, taken apart in time linear in its bytes.

General parsers build what the client asks for: an object for each of ten million empty lists, a
call for each byte of a part. These know what the server takes and give up at the first thing that
it does not. No single step takes longer than a look at the whole body, or works on more than PIECE
bytes of it, so that the event loop, which shares the interpreter's lock, is never kept waiting.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator

from resnets.serve.http.limits import RefusalError

PIECE = 1 << 20  # bytes; a multiple of 4
SKELETON = 1 << 14  # bytes of JSON outside of its strings: brackets, commas, indentation
PART_HEADERS = 2048  # bytes of headers of one part
ESCAPES = (  # those of base64 and of line ends
    *((b"\\/", b"/"), (b"\\n", b" "), (b"\\r", b" "), (b"\\t", b" ")),
    *((b"\\u002b", b"+"), (b"\\u002B", b"+"), (b"\\u002f", b"/"), (b"\\u002F", b"/")),
    *((b"\\u003d", b"="), (b"\\u003D", b"=")),
)
DATA_URL = re.compile(rb"data:[^,]*,")
BASE64_URL = re.compile(rb"data:[^,]*;base64,")
LONGEST_DATA_URL = 1024  # bytes before its data


def images_of_json(body: bytes, most: int) -> list[bytes]:
    """The images of {"pictures": ["<base64>", ...]}, or "picture" with one; a data: URL is read as
    its base64.

    RefusalError (400, 413) where the body is anything else, or has more than `most`.
    """
    skeleton, strings = _without_strings(body, most)
    try:
        value = json.loads(skeleton)
    except (ValueError, RecursionError):
        raise RefusalError(400, "the body is not JSON") from None
    if not isinstance(value, dict) or len(value) != 1:
        raise _wrong_shape()
    ((key, found),) = value.items()
    name = strings[int(key)]
    if name == b"picture":
        found = [found]
    elif name != b"pictures":
        raise _wrong_shape()
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise RefusalError(400, '"pictures" must be a list of base64 texts')
    if len(found) > most:
        raise too_many(most)
    return [_from_base64(strings[int(each)], number) for number, each in enumerate(found, 1)]


def parts_of(body: bytes, boundary: bytes, most: int) -> list[bytes]:
    """The contents of the parts of a multipart body (RFC 2046), `most` at most.

    RefusalError (400, 413) says what is wrong.
    """
    if not 0 < len(boundary) <= 70:
        raise _malformed("its boundary must have 1 to 70 characters")
    line = b"\r\n--" + boundary
    if body.startswith(line[2:]):
        at = len(line) - 2
    else:
        at = _find(body, line, 0, "no boundary in the body") + len(line)
    parts: list[bytes] = []
    while not body.startswith(b"--", at):
        if len(parts) == most:
            raise too_many(most)
        start = _skip_headers(body, at)
        end = _find(body, line, start - 2, "the closing boundary is missing")
        parts.append(body[start:end])
        at = end + len(line)
    return parts


def too_many(most: int) -> RefusalError:
    """For a request with more than `most` images."""
    return RefusalError(413, f"more than {most} pictures in one request")


def _without_strings(body: bytes, most: int) -> tuple[bytes, list[bytes]]:
    """`body` with its strings replaced by their numbers, and the strings, still escaped."""
    skeleton, strings, at = bytearray(), list[bytes](), 0
    while True:
        start = body.find(b'"', at)
        size = (len(body) if start < 0 else start) - at
        if len(skeleton) + size > SKELETON:
            raise _wrong_shape()
        skeleton += body[at : at + size]
        if start < 0:
            return bytes(skeleton), strings
        if len(strings) > most:  # one of them is the key
            raise RefusalError(413, f"more than {most} pictures, or other strings, in the JSON")
        end = body.find(b'"', start + 1)
        if end < 0:
            raise RefusalError(400, "the body is not JSON")
        skeleton += b'"%d"' % len(strings)
        # An escaped quote is part of no base64: the string ends here, and is refused as none.
        strings.append(body[start + 1 : end])
        at = end + 1


def _from_base64(text: bytes, number: int) -> bytes:
    head = text[:LONGEST_DATA_URL].replace(b"\\/", b"/")
    if DATA_URL.match(head):
        if not BASE64_URL.match(head):
            raise RefusalError(400, f"picture {number}: its data: URL is not base64")
        text = text[text.index(b",") + 1 :]
    plain = bytearray().join(_unescaped(piece) for piece in _pieces(text))
    decoded = bytearray()
    try:
        for at in range(0, len(plain), PIECE):
            piece = plain[at : at + PIECE]
            if b"=" in piece and at + PIECE < len(plain):
                raise ValueError("padding before the end")
            decoded += base64.b64decode(piece, validate=True)
    except (binascii.Error, ValueError):
        raise RefusalError(400, f"picture {number} is not base64") from None
    return bytes(decoded)


def _pieces(text: bytes) -> Iterator[bytes]:
    """`text` in pieces, none of which ends within an escape of up to 6 bytes."""
    at = 0
    while at < len(text):
        end = at + PIECE
        if end < len(text) and (escape := text.rfind(b"\\", end - 5, end)) >= 0:
            end = escape
        yield text[at:end]
        at = end


def _unescaped(piece: bytes) -> bytes:
    if b"\\" in piece:
        for escape, plain in ESCAPES:
            piece = piece.replace(escape, plain)
    return piece.replace(b" ", b"")


def _skip_headers(body: bytes, at: int) -> int:
    """Where the content of the part begins whose boundary ends at `at`."""
    head = body[at : at + PART_HEADERS]
    end = head.find(b"\r\n\r\n")
    if not head.lstrip(b" \t").startswith(b"\r\n"):
        raise _malformed("a boundary is not followed by the end of its line")
    if end < 0:
        raise _malformed(f"the headers of a part do not end within {PART_HEADERS} bytes")
    return at + end + 4


def _find(body: bytes, wanted: bytes, at: int, missing: str) -> int:
    """Where `wanted` begins at `at` or behind it; RefusalError where nowhere."""
    while at < len(body):
        found = body.find(wanted, at, at + PIECE + len(wanted))
        if found >= 0:
            return found
        at += PIECE
    raise _malformed(missing)


def _malformed(reason: str) -> RefusalError:
    return RefusalError(400, f"multipart/form-data: {reason}")


def _wrong_shape() -> RefusalError:
    return RefusalError(400, 'the JSON must be {"pictures": ["<base64>", ...]}')

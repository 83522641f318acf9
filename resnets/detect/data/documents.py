"""JSON, XML and text files of annotations, as bytes that nobody vouches for.

Whatever is wrong with one is a DataError of one line. XML with entities of its own is refused
(expanded they can fill the memory, and outside ones name other files); nesting is bounded.
"""

from __future__ import annotations

import codecs
import json
import re
import xml.etree.ElementTree as ElementTree
from typing import Any
from xml.parsers import expat

from resnets.data.errors import DataError

MAX_XML_BYTES = 1 << 26
MAX_XML_DEPTH = 100
_DECLARED = re.compile(rb"""\A\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([^"']{1,60})["']""")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Encodings that later ones extend, which tools write under the old name.
_WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"}
_NOT_PLAIN = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"})


def parse_json(data: bytes, where: str) -> Any:
    """The document in `data`; DataError where it is no JSON."""
    try:
        return json.loads(data)
    except RecursionError:
        raise DataError(f"{where}: no JSON (nested too deeply); restore it") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: no JSON ({error.reason}); save it as UTF-8") from error
    except ValueError as error:
        raise DataError(f"{where}: no JSON ({_line(error)}); restore it") from error


def parse_xml(data: bytes, where: str) -> ElementTree.Element:
    """The root element of `data`, all tags in lower case and without namespace.

    The encoding is that of a byte order mark, or the one declared, or UTF-8. DataError: damaged,
    in an unknown encoding, with entities of its own, or nested deeper than MAX_XML_DEPTH.
    """
    if len(data) > MAX_XML_BYTES:
        raise DataError(f"{where}: is no XML of annotations ({len(data):,} bytes)")
    try:
        return _parse_xml(_decoded_xml(data))
    except (expat.ExpatError, ValueError) as error:
        raise DataError(f"{where}: is no XML ({_line(error)})") from error


def decode_text(data: bytes, where: str) -> str:
    """Text in UTF-8, or in UTF-16 with a byte order mark; DataError where it is neither."""
    encoding, start = _marked(data)
    try:
        return data[start:].decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: is not UTF-8 (byte {error.start:,}); save it in that encoding"
        ) from error


def _marked(data: bytes) -> tuple[str, int]:
    """The encoding that a byte order mark states, "" without one, and the mark's length."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding, len(mark)
    return "", 0


def _decoded_xml(data: bytes) -> str:
    encoding, start = _marked(data)
    declared = _DECLARED.match(data[start:])
    if not encoding and declared:
        encoding = _codec(declared[1].decode("ascii", "replace"))
    try:
        return data[start:].decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        message = f"not {encoding or 'utf-8'} at byte {error.start:,}; save it as UTF-8"
        raise ValueError(message) from error


def _codec(declared: str) -> str:
    try:
        found = codecs.lookup(declared)
    except (LookupError, ValueError):
        found = None
    if found is None or not found._is_text_encoding or found.name in _NOT_PLAIN:
        raise ValueError(f"its encoding {declared!r} is unknown; save it as UTF-8")
    return _WIDER.get(found.name, found.name)


def _parse_xml(text: str) -> ElementTree.Element:
    builder = ElementTree.TreeBuilder()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_XML_DEPTH:
            raise ValueError(f"nested deeper than {MAX_XML_DEPTH}")
        builder.start(_plain(tag), attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(_plain(tag))

    def entity(name: str, *_: Any) -> None:
        raise ValueError(f"it declares the entity {name!r}; entities are not read")

    parser = expat.ParserCreate("utf-8")  # whatever it declares: it is decoded already
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.EntityDeclHandler = builder.data, entity
    parser.Parse(text.encode("utf-8"), True)
    return builder.close()


def _plain(tag: str) -> str:
    return tag.rpartition(":")[2].lower()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

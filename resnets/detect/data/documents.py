"""Parsing of JSON, YAML, XML and text files of annotations from untrusted sources.

All errors are one-line DataErrors. XML with entity declarations is refused (expansion can exhaust
the memory, and external entities refer to other files); nesting is limited.
"""

from __future__ import annotations

import codecs
import re
import xml.etree.ElementTree as ElementTree
from typing import Any
from xml.parsers import expat

from resnets.data.errors import DataError
from resnets.utils.files import json, yaml

MAX_XML_BYTES = 1 << 26
MAX_XML_DEPTH = 100
_XML_ENCODING = re.compile(rb"""\A\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([^"']{1,60})["']""")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, since it begins with its mark
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Tools write the name of an encoding when they use its extension.
_EXTENDED_BY = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"}
_UNUSABLE = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"})


def parse_json(data: bytes, where: str) -> Any:
    """Parse JSON; DataError if it is invalid."""
    try:
        return json.parse_json(data)
    except RecursionError:
        raise DataError(f"{where}: invalid JSON (nested too deeply); restore it") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: invalid JSON ({error.reason}); save it as UTF-8") from error
    except ValueError as error:
        raise DataError(f"{where}: invalid JSON ({_one_line(error)}); restore it") from error


def parse_yaml(data: bytes, where: str) -> Any:
    """Parse YAML; DataError if it is invalid, too large, or has repeated keys, aliases or tags."""
    try:
        return yaml.parse_yaml(data.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise DataError(f"{where}: invalid or unsupported YAML ({error})") from error


def parse_xml(data: bytes, where: str) -> ElementTree.Element:
    """Parse XML into its root element, with all tags in lower case and without namespaces.

    The encoding is that of a byte order mark, the declared one, or UTF-8. Raises DataError for
    files that are damaged, in an unknown encoding, with entity declarations, or nested deeper than
    MAX_XML_DEPTH.
    """
    if len(data) > MAX_XML_BYTES:
        raise DataError(f"{where}: is too large for XML annotations ({len(data):,} bytes)")
    try:
        return _parse_xml(_decode_xml(data))
    except (expat.ExpatError, ValueError) as error:
        raise DataError(f"{where}: invalid XML ({_one_line(error)})") from error


def decode_text(data: bytes, where: str) -> str:
    """Decode UTF-8, or UTF-16 and UTF-32 with a byte order mark; raises DataError otherwise."""
    encoding, start = _byte_order_mark(data)
    try:
        return data[start:].decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: is not UTF-8 (byte {error.start:,}); save it in that encoding"
        ) from error


def _byte_order_mark(data: bytes) -> tuple[str, int]:
    """Return the encoding and length of a byte order mark; "" and 0 without one."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return encoding, len(mark)
    return "", 0


def _decode_xml(data: bytes) -> str:
    encoding, start = _byte_order_mark(data)
    declared = _XML_ENCODING.match(data[start:])
    if not encoding and declared:
        encoding = _find_codec(declared[1].decode("ascii", "replace"))
    try:
        return data[start:].decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        message = f"not {encoding or 'utf-8'} at byte {error.start:,}; save it as UTF-8"
        raise ValueError(message) from error


def _find_codec(declared: str) -> str:
    try:
        codec = codecs.lookup(declared)
    except (LookupError, ValueError):
        codec = None
    if codec is None or not codec._is_text_encoding or codec.name in _UNUSABLE:
        raise ValueError(f"its encoding {declared!r} is unknown; save it as UTF-8")
    return _EXTENDED_BY.get(codec.name, codec.name)


def _parse_xml(text: str) -> ElementTree.Element:
    builder = ElementTree.TreeBuilder()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_XML_DEPTH:
            raise ValueError(f"nested deeper than {MAX_XML_DEPTH}")
        builder.start(_local_name(tag), attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(_local_name(tag))

    def entity(name: str, *_: Any) -> None:
        raise ValueError(f"it declares the entity {name!r}; entities are not read")

    parser = expat.ParserCreate("utf-8")  # overrides the declared one: it is decoded already
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.EntityDeclHandler = builder.data, entity
    parser.Parse(text.encode("utf-8"), True)
    return builder.close()


def _local_name(tag: str) -> str:
    return tag.rpartition(":")[2].lower()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

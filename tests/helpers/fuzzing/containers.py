# ruff: noqa: E501 (tables of bytes)
"""Changes within binary formats that repair what guards them: lengths, checksums, compression.

Blind damage to a PNG or a zip is mostly found by its checksums. Here a part is changed and the
file put together again, so that what reads the part sees the change.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickletools
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable

from fuzzing import texts

Inside = Callable[[bytes, str], bytes]  # a part and its name -> the part changed
PNG = b"\x89PNG\r\n\x1a\n"


def change(data: bytes, draw: random.Random, inside: Inside) -> bytes | None:
    """One change that fits what `data` is; None where it is none of these formats."""
    for starts, changed in CHANGES:
        if data.startswith(starts):
            try:
                return changed(data, draw, inside)
            except Exception:  # it is damaged already
                return None
    if data[257:262] == b"ustar":
        return _tar(data, draw, inside)
    if data[8:9] == b"{" and 2 < int.from_bytes(data[:8], "little") < len(data):
        return _safetensors(data, draw, inside)
    return None


def _zip(data: bytes, draw: random.Random, inside: Inside) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    chosen, kind = draw.randrange(len(members)), draw.random()
    small = [k for k, (_, part) in enumerate(members) if len(part) < 4096]
    if small and draw.random() < 0.5:
        chosen = draw.choice(small)
    with zipfile.ZipFile(out, "w", members[0][0].compress_type) as archive:
        for number, (info, part) in enumerate(members):
            name = info.filename
            if number == chosen and kind < 0.75:
                part = inside(part, name)
            elif number == chosen and kind < 0.8:
                continue
            elif number == chosen and kind < 0.85:
                archive.writestr(zipfile.ZipInfo(name), inside(part, name))  # the name twice
            elif number == chosen and kind < 0.9:
                name = draw.choice(
                    ("../x", "/x", "", "a\\b", f"{name}/", name[:-1], "é", "\x1b[2J")
                )
            elif number == chosen:
                part = bytes(draw.choice((0, 1 << 20, 1 << 23)))
                archive.writestr(zipfile.ZipInfo(name), part, zipfile.ZIP_DEFLATED)
                continue
            archive.writestr(zipfile.ZipInfo(name), part, info.compress_type)
    return out.getvalue()


def _compressed(open_: Callable[..., bytes], pack: Callable[[bytes], bytes]):
    def changed(data: bytes, draw: random.Random, inside: Inside) -> bytes:
        plain = open_(data)
        if draw.random() < 0.05:
            plain += bytes(1 << 24)
        return pack(inside(plain, "inner"))

    return changed


def _tar(data: bytes, draw: random.Random, inside: Inside) -> bytes | None:
    """A field of a member's header, whose checksum is made right; or a member's bytes; or PAX."""
    heads, at = [], 0
    while data[at + 257 : at + 262] == b"ustar":
        try:
            size = int(data[at + 124 : at + 136].rstrip(b"\0 ") or b"0", 8)
        except ValueError:
            break
        heads.append((at, size))
        at += 512 + -(-size // 512) * 512
    if not heads:
        return None
    at, size = draw.choice(heads)
    kind = draw.random()
    if kind < 0.3:
        part = inside(data[at + 512 : at + 512 + size], "member")
        body = part + bytes(-len(part) % 512)
        head = bytearray(data[at : at + 512])
        head[124:136] = b"%011o\0" % len(part)
        end = at + 512 + -(-size // 512) * 512
        return data[:at] + _summed(head) + body + data[end:]
    if kind < 0.5:
        rows = draw.choice(
            (
                b"30 size=99999999999999999999\n", b"12 size=-5\n", b"9 path=\n", b"99 path=x\n", b"0 a=b\n",
                b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n", b"20 path=../../x.png\n",
                b"24 GNU.sparse.size=9999\n28 GNU.sparse.realsize=99\n", b"-3 a=b\n", b"99999999999 a=b\n",
                b"25 hdrcharset=BINARY\n12 path=\xff\xfe\n", b"17 mtime=nan\n13 uid=1e9\n", bytes(40),
            )
        )  # fmt: skip
        info = tarfile.TarInfo("pax")
        info.size, info.type = len(rows), draw.choice((b"x", b"g", b"L", b"K", b"X"))
        return (
            data[:at]
            + info.tobuf(tarfile.USTAR_FORMAT)
            + rows
            + bytes(-len(rows) % 512)
            + data[at:]
        )
    head = bytearray(data[at : at + 512])
    start, end = draw.choice(((0, 100), (100, 108), (124, 136), (124, 136), (136, 148), (156, 157),
                              (157, 257), (257, 265), (345, 500), (386, 483)))  # fmt: skip
    length = end - start
    filled = draw.choice(
        (b"\x80" + b"\xff" * (length - 1), b"\xff" * length, b"7" * length, bytes(length), b" " * length,
         draw.randbytes(length), b"-1" + bytes(length), b"../" * length, b"x" * length, b"SgL12356KDVMN")
    )  # fmt: skip
    if start == 156:
        filled = bytes([draw.choice(b"01234567SLKxgXDVMNA\0")])
    head[start:end] = (filled + bytes(length))[:length]
    return data[:at] + _summed(head) + data[at + 512 :]


def _summed(head: bytearray) -> bytes:
    """A tar header with the checksum that it should have."""
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def _png(data: bytes, draw: random.Random, inside: Inside) -> bytes:
    chunks, at = [], len(PNG)
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    place, kind = draw.randrange(len(chunks)), draw.random()
    name, body = chunks[place]
    if kind < 0.3 and chunks[0][0] == b"IHDR":
        head = list(struct.unpack(">IIBBBBB", chunks[0][1]))
        which = draw.randrange(7)
        head[which] = draw.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        if which < 2 and draw.random() < 0.7:
            head[which] = draw.choice((0, 1, 8000, 65535, 2**31 - 1, 2**32 - 1))
        chunks[0] = b"IHDR", struct.pack(">IIBBBBB", *head)
    elif kind < 0.6:
        if name == b"IDAT" and draw.random() < 0.7:
            body = zlib.compress(inside(zlib.decompress(body), "pixels"))
        else:
            body = inside(body, "chunk")
        chunks[place] = name, body
    elif kind < 0.7:
        chunks[place:place] = [chunks[place]] * draw.choice((1, 3, 3000))
    elif kind < 0.75:
        del chunks[place]
    elif kind < 0.9:
        new = draw.choice((b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"tRNS",
                           b"PLTE", b"gAMA", b"pHYs", b"cHRM", b"sRGB", b"IEND", b"IDAT"))  # fmt: skip
        bomb = zlib.compress(bytes(1 << 22))
        body = draw.choice(
            (b"", b"a\0\0" + bomb, draw.randbytes(26), bytes(300), b"a\0\0\0\0\0" + bomb)
        )
        chunks.insert(draw.randrange(1, len(chunks) + 1), (new, body))
    else:
        other = draw.randrange(len(chunks))
        chunks[place], chunks[other] = chunks[other], chunks[place]
    return PNG + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def _jpeg(data: bytes, draw: random.Random, inside: Inside) -> bytes:
    """Segments before the first scan changed, doubled, dropped or moved."""
    parts, at = [], 2
    while data[at : at + 1] == b"\xff" and data[at + 1] != 0xDA:
        size = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        parts.append(data[at : at + size])
        at += size
    rest, place, kind = data[at:], draw.randrange(len(parts)), draw.random()
    part = parts[place]
    if kind < 0.4:
        body = inside(part[4:], "segment")[:60_000]
        parts[place] = part[:2] + struct.pack(">H", len(body) + 2) + body
    elif kind < 0.55:
        parts[place:place] = [part] * draw.choice((1, 3, 2000))
    elif kind < 0.65:
        del parts[place]
    elif kind < 0.75:
        parts[place] = part[:1] + bytes([draw.randrange(256)]) + part[2:]
    elif kind < 0.85:
        for number, each in enumerate(parts):
            if each[1] in (0xC0, 0xC1, 0xC2):  # height, width
                size = draw.choice(((65500, 65500), (1, 65500), (0, 10), (9000, 9000), (10, 0)))
                parts[number] = each[:5] + struct.pack(">HH", *size) + each[9:]
    else:
        rest = rest[:-2] * draw.choice((2, 30)) + rest[-2:]
    return data[:2] + b"".join(parts) + rest


def _safetensors(data: bytes, draw: random.Random, inside: Inside) -> bytes:
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        described = header.get("__metadata__", {}).get("resnets")
        if described is not None and draw.random() < 0.6:  # JSON within the JSON
            changed = texts.changed_value(json.loads(described), draw)
            header["__metadata__"]["resnets"] = json.dumps(changed)
        else:
            header = texts.changed_value(header, draw)
        text = json.dumps(header).encode()
    except (ValueError, AttributeError):
        text = inside(data[8 : 8 + size], "header")
    if draw.random() < 0.1:
        text = inside(text, "header.json")
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def _pickle(data: bytes, draw: random.Random, inside: Inside) -> bytes | None:
    """Instructions left out, doubled, moved, put in or given other arguments."""
    places = [place for _, _, place in pickletools.genops(data)]
    ends = [*places[1:], len(data)]
    codes = [data[start:end] for start, end in zip(places, ends, strict=True)]
    for _ in range(draw.choice((1, 1, 3))):
        at, kind = draw.randrange(len(codes)), draw.randrange(6)
        if kind == 0:
            del codes[at]
        elif kind == 1:
            codes[at:at] = [codes[at]] * draw.choice((1, 2, 1000))
        elif kind == 2:
            other = draw.randrange(len(codes))
            codes[at], codes[other] = codes[other], codes[at]
        elif kind == 3:
            codes.insert(at, draw.choice(CODES))
        elif kind == 4:
            codes[at] = draw.choice(CODES)
        else:
            code = codes[at]
            codes[at] = code[:1] + draw.choice((b"", inside(code[1:], "argument"), b"\xff" * 8))
        if not codes:
            return b"."
    return b"".join(codes)


CODES = (
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"cnumpy\ndtype\n", b"R", b"b", b"\x81", b"\x85", b"\x86", b"\x87",
    b"(", b")", b"]", b"}", b"N", b"t", b"l", b"d", b"s", b"u", b"e", b"a", b"0", b"2", b"1", b".", b"Q",
    b"\x88", b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"r\xff\xff\xff\xff", b"j\xff\xff\xff\xff", b"q\0", b"h\0",
    b"\x8a\xff" + b"\x7f" * 255, b"\x8e" + b"\xff" * 8, b"\x8d" + b"\xff" * 7 + b"\x7f", b"X\xff\xff\xff\x7f", b"X\0\0\0\0",
    b"\x80\xff", b"\x95" + b"\xff" * 8, b"\x93", b"\x94", b"\x8f", b"\x90", b"\x91", b"G\x7f\xf8\0\0\0\0\0\0", b"Vx\n",
    b"I99999999999999999999\n", b"L1L\n", b"Fnan\n", b"p99999999999\n", b"g0\n", b"Px\n", b"ios\nsystem\n", b"o",
    b"\x82\x01", b"\x84\xff\xff\xff\xff", b"\x96" + b"\xff" * 8, b"\x97", b"\x98", b"\x92", b"T\xff\xff\xff\xff",
)  # fmt: skip


CHANGES: tuple[tuple[tuple[bytes, ...], Callable[..., bytes | None]], ...] = (
    ((b"PK\x03\x04",), _zip),
    ((b"\x1f\x8b",), _compressed(gzip.decompress, lambda data: gzip.compress(data, mtime=0))),
    ((b"BZh",), _compressed(bz2.decompress, bz2.compress)),
    ((b"\xfd7zXZ",), _compressed(lzma.decompress, lzma.compress)),
    ((PNG,), _png),
    ((b"\xff\xd8",), _jpeg),
    ((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), _pickle),
)

"""The one unpickler: what a hostile pickle can have, and what it cannot."""

import contextlib
import pickle
import resource
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from resnets.config import DataSpec
from resnets.data import DataError, open_data
from resnets.data.files.pickle_machine import PickleError
from resnets.data.files.unpickle import unpickle
from resnets.data.files.unpickle_numpy import ARRAYS


def dtype(code: str, state: bytes) -> bytes:
    """Instructions that make a dtype and set its state."""
    name = code.encode()
    return b"cnumpy\ndtype\nX" + struct.pack("<I", len(name)) + name + b"\x89\x88\x87R" + state


PLAIN = dtype("f8", b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")


def array(kind: bytes, data: bytes = b"A" * 64, shape: bytes = b"K\x08\x85") -> bytes:
    """A pickle of an array by `_reconstruct` and a state."""
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    state = b"(K\x01" + shape + kind + b"\x89B" + struct.pack("<I", len(data)) + data + b"tb"
    return b"\x80\x02}X\x01\x00\x00\x00w" + made + state + b"s."


def fields(offset: int, size: int = 8, flags: int = 0) -> bytes:
    """A dtype state with a field far outside of an element."""
    inner = b"(X\x01\x00\x00\x00at}X\x01\x00\x00\x00a" + PLAIN
    inner += b"J" + struct.pack("<i", offset) + b"\x86s"
    numbers = b"J" + struct.pack("<i", size) + b"K\x08J" + struct.pack("<i", flags)
    return dtype("f8", b"(K\x03X\x01\x00\x00\x00<N" + inner + numbers + b"tb")


def nested(start: bytes, levels: int) -> bytes:
    """Pairs of pairs of pairs, each twice the same."""
    steps = (b"q" + bytes([k]) + b"h" + bytes([k]) + b"\x86" for k in range(levels))
    return start + b"".join(steps)


HOSTILE = {
    "fields": array(fields(1 << 30)),
    "fields before": array(fields(-(1 << 30))),
    "objects": array(fields(0, flags=63)),
    "short": array(PLAIN, b"A" * 63),
    "negative": array(PLAIN, shape=b"J\xff\xff\xff\xff\x85"),
    "unfilled dtype": array(dtype("f8", b"")),
    "object dtype": array(dtype("O8", b"")),
    "memo of tuples as a key": b"\x80\x02}" + nested(b")", 40) + b"K\x01s.",
    "length of bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",
    "length of text": b"\x80\x04\x8d" + struct.pack("<Q", (1 << 63) - 1) + b"abc.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"\x80\x02Pabc\n.",
    "old class": b"(ios\nsystem\n.",
    "class in a module": b"\x80\x04\x8c\x05numpy\x8c\x0bf2py.os.path\x93.",
    "attributes of a function": b"c_codecs\nencode\n}b.",
    "copies": b"\x80\x02](q\x00X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\x01"
    + (b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R" * 500) + b"e.",
    "digits": b"I" + b"9" * 100_000 + b"\n.",
    "no end": b"\x80\x02" + b"]" * 1000,
}  # fmt: skip
HARMLESS = {
    "far memo": b"\x80\x02Nr" + struct.pack("<I", 0xFFFFFFF0) + b".",
    "laughs": nested(b"\x80\x02]", 30) + b".",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 8) + b"N" + b"0N" * 3 + b"0N.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_at_once(name: str) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(PickleError) as caught:
        unpickle(HOSTILE[name], ARRAYS)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.parametrize("name", HARMLESS)
def test_memory_is_not_allocated_by_stated_sizes(name: str) -> None:
    start = time.monotonic()
    unpickle(HARMLESS[name], ARRAYS)
    assert time.monotonic() - start < 1


def test_the_number_of_instructions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnets.data.files.unpickle.MAX_STEPS", 10_000)
    with pytest.raises(PickleError, match="10,000 instructions"):
        unpickle(b"\x80\x02" + b"N0" * 5_000 + b"N.", ARRAYS)


def test_mutated_pickles_give_a_value_or_the_one_error() -> None:
    """Every exception but PickleError, and any crash, fails."""
    content = {"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": [1, 2, 3], "x": 2.5}
    draw = np.random.default_rng(0)
    for protocol in range(6):
        whole = pickle.dumps(content, protocol)
        for _ in range(500):
            data = bytearray(whole)
            for place in draw.integers(0, len(data), draw.integers(1, 4)):
                data[place] = draw.integers(0, 256)
            with contextlib.suppress(PickleError):
                unpickle(bytes(data), ARRAYS)


@pytest.mark.parametrize("name", ["fields", "objects", "memo of tuples as a key"])
def test_cifar_batches_are_read_by_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b"]}, 2))
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}").write_bytes(HOSTILE[name])
    (tmp_path / "test_batch").write_bytes(HOSTILE[name])
    with pytest.raises(DataError, match="data_batch_1"):
        open_data(DataSpec(source=str(tmp_path)))


def test_a_cifar_label_without_a_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b"]}, 2))
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 7]}
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (tmp_path / name).write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(DataError, match="labels up to 7"):
        open_data(DataSpec(source=str(tmp_path)))

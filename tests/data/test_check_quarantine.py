"""Quarantine lists: any file name survives, and lists that were written before are still read."""

import json
import os
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnets.config import ConfigError, DataSpec
from resnets.data import open_data
from resnets.data.dataset.quarantine_list import Quarantine, read_quarantine, write_quarantine

ODD = (
    "a/tab\there.png",
    "a/line\nbreak.png",
    "a/carriage\rreturn.png",
    "a/\x85next-line\u2028.png",
    "# a/1.png",
    "#a/1.png",
    " a/leading blank.png",
    "a/trailing blank ",
    '"a/quoted".png',
    'a/"inside".png',
    "a/back\\slash.png",
    "a/caf\udce9.png",  # the byte e9: Latin-1
    "a/é, ü 猫.png",
    "a/\ufeffbom.png",
    "a/escape\x1b[31m.png",
    "a/rtl\u202e.png",
    "\ufeffa/1.png",
    "'a'/$(b).png",
)


def test_any_name_survives(tmp_path: Path) -> None:
    file = tmp_path / "quarantine.txt"
    write_quarantine(file, [(name, f"leak: like\t{name}") for name in ODD])
    assert read_quarantine(file) == frozenset(ODD)
    file.read_text("utf-8")  # whatever the names hold
    assert len(file.read_bytes().split(b"\n")) == len(ODD) + 2


def test_every_name_that_a_file_system_allows(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    common = b"\t\n\r #\"'\\/a.\x1b\xc2\x85\xe2\x80\xa8\xef\xbb\xbf"
    names = set()
    for _ in range(3000):
        letters = bytes(random.choice(list(common), random.integers(1, 7)).astype(np.uint8))
        names |= {letters, random.integers(1, 256, 4, np.uint8).tobytes()}
    paths = {os.fsdecode(name) for name in names}
    write_quarantine(tmp_path / "list.txt", [(path, "why") for path in sorted(paths)])
    assert read_quarantine(tmp_path / "list.txt") == paths


def test_lists_of_before_and_lists_of_people(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes(b'# Images left out: ...\r\na/1.png\twhy\r\n"a"/2.png\n\na/caf\xe9.png\n')
    assert read_quarantine(file) == {"a/1.png", '"a"/2.png', "a/caf\udce9.png"}
    file.write_bytes(b"\xef\xbb\xbfa/1.png\r\na/2.png")
    assert read_quarantine(file) == {"a/1.png", "a/2.png"}


@pytest.mark.parametrize("data", ["a/1.png\n".encode("utf-16"), None])
def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path, data: bytes | None) -> None:
    file = tmp_path / "list.txt"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(ConfigError, match=r"data\.quarantine"):
        read_quarantine(file)


def test_a_damaged_entry_is_named_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    write_quarantine(file, [("a/tab\t.png", "why")])
    file.write_text(file.read_text().replace('.png"', ".png"))
    with pytest.raises(ConfigError, match="line 2"):
        read_quarantine(file)


def test_another_unicode_form_of_a_name_is_the_same_name(tmp_path: Path) -> None:
    composed, apart = "a/é.png", unicodedata.normalize("NFD", "a/é.png")
    one = Quarantine("", frozenset({composed}))
    assert one.is_listed([apart, "a/b.png"]).tolist() == [True, False]
    assert one.is_listed([composed, apart]).tolist() == [True, False]  # two files of one folder


@pytest.mark.skipif(sys.platform != "linux", reason="file systems elsewhere refuse such names")
def test_images_of_any_name_are_excluded(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names = ["tab\there.png", "line\nbreak.png", "#1.png", " blank.png", "caf\udce9.png", '"q".png']
    random = np.random.default_rng(0)
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for name in (*names, *(f"{number}.png" for number in range(20))):
            image = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8))
            image.save(open(root / label / name, "wb"), "PNG")  # noqa: SIM115
    write_quarantine(root / "quarantine.txt", [(f"a/{name}", "why") for name in names])
    splits = open_data(DataSpec(source=str(root), in_memory="never"))
    shares = [splits.train, splits.val, splits.test()]
    kept = {path for split in shares for path in split.files.paths}
    assert not kept & {f"a/{name}" for name in names}
    assert len(kept) == 46
    assert json.dumps("a/tab\there.png") in (root / "quarantine.txt").read_text()

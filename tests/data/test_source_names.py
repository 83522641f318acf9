"""Augmented copies of one source in several parts, told by their names (NAME.rf.HASH)."""

import numpy as np
import pytest
from PIL import Image

from resnets.cli.main import main
from resnets.config import DataSpec
from resnets.data import open_data
from resnets.data.check.run import check_data
from resnets.data.check.verdict import exit_code, list_warnings, make_verdict
from resnets.data.finding_kinds import SAME_SOURCE


def photo(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def copies(tmp_path):
    """Class folders of three parts, where photo 0 and 1 of each class are in all parts."""
    root = tmp_path / "set"
    for place, part in enumerate(("train", "valid", "test")):
        for label in ("cat", "dog"):
            for n in range(4):
                number = n if n < 2 else 10 * place + n
                name = f"{label}{number}_jpg.rf.{place}f3a9c0d1e2b{n:02d}.jpg"
                photo(root / part / label / name, 100 * place + 10 * n + (label == "cat"))
    return root


def test_copies_of_one_source_in_two_parts_are_counted(copies, tmp_path, capsys):
    report = check_data(DataSpec(source=str(copies)))
    found = [each for each in report.findings if each.kind == SAME_SOURCE]
    assert len(found) == 8
    assert {each.part for each in found} == {"train", "val"}
    assert all(each.other_part != each.part for each in found)
    assert len(list_warnings(report)) == 1
    assert any(
        point.weight == "suspect" and "8 images" in point.text for point in make_verdict(report)
    )
    assert exit_code(report) == 0
    out = tmp_path / "out"
    command = ["data", "check", str(copies), "--out", str(out), "--exclude", "same-source"]
    assert main(command) == 0
    assert "WARNING: 8 images" in capsys.readouterr().out
    listed = (out / "quarantine.txt").read_text()
    assert sum(".rf." in line for line in listed.splitlines()) == 8
    again = check_data(DataSpec(source=str(copies), quarantine=str(out / "quarantine.txt")))
    assert list_warnings(again) == []


def test_names_without_hashes_are_not_copies(tmp_path):
    for place, part in enumerate(("train", "test")):
        for number in range(4):
            photo(tmp_path / part / "cat" / f"p{number}.jpg", 10 * place + number)
            photo(tmp_path / part / "dog" / f"p{number}.v2.jpg", 20 + 10 * place + number)
    assert list_warnings(check_data(DataSpec(source=str(tmp_path)))) == []


def sizes_of_uploads(root, count=8, seed=0):
    """Class folders without splits where each upload is there in three sizes, as of WordPress."""
    for label in ("cat", "dog"):
        for number in range(count):
            for size in ("", "-300x225", "-150x150"):
                seed += 1
                photo(root / label / f"photo-{number}{size}.jpg", seed)


@pytest.mark.parametrize("form", ["sizes", "hashes"])
def test_training_warns_of_versions_in_splits_that_it_draws(tmp_path, form):
    if form == "sizes":
        sizes_of_uploads(tmp_path)
    else:
        for number in range(48):
            name = f"{number // 3}_jpg.rf.{number:02}f3a9c0d1e2b.jpg"
            photo(tmp_path / ("cat" if number % 6 < 3 else "dog") / name, number)
    spec = DataSpec(source=str(tmp_path))
    found = [
        text for text in open_data(spec, training=True).summary.warnings if "data check" in text
    ]
    assert len(found) == 1
    assert "32 of 48" in found[0]
    assert [each for each in check_data(spec).findings if each.kind == SAME_SOURCE]
    assert not open_data(spec).summary.warnings


def test_training_warns_of_versions_in_splits_that_are_stated(copies):
    """As data check does: 4 photographs are in all three parts."""
    (found,) = open_data(DataSpec(source=str(copies)), training=True).summary.warnings
    assert "8 held-out images" in found
    assert not open_data(DataSpec(source=str(copies))).summary.warnings


def test_other_names_are_not_warned_of(tmp_path):
    for number in range(20):  # one size of each
        photo(tmp_path / "single" / "cat" / f"{number}-640x480.jpg", number)
        photo(tmp_path / "single" / "dog" / f"{number}-640x480.jpg", 100 + number)
    for place, part in enumerate(("train", "val", "test")):
        for label in ("cat", "dog"):  # versions of one source within a part alone
            for number in range(6):
                seed = 100 * place + 10 * number + (label == "cat")
                name = f"{place}{number // 3}_jpg.rf.{number:02}f3a9c0d1e2b.jpg"
                photo(tmp_path / "stated" / part / label / name, seed)
    for name in ("stated", "single"):
        found = open_data(DataSpec(source=str(tmp_path / name)), training=True).summary
        assert not found.warnings


def test_sizes_of_an_upload_in_two_parts_are_of_one_source(tmp_path):
    for label in ("cat", "dog"):
        photo(tmp_path / "train" / label / "a-300x225.jpg", 1)
        photo(tmp_path / "train" / label / "b.jpg", 2 + (label == "cat"))
        photo(tmp_path / "test" / label / "a.jpg", 4 + (label == "cat"))
    found = [
        (each.path, each.other_image)
        for each in check_data(DataSpec(source=str(tmp_path))).findings
        if each.kind == SAME_SOURCE
    ]
    assert found == [
        (f"train/{label}/a-300x225.jpg", f"test/{label}/a.jpg") for label in ("cat", "dog")
    ]

"""`resnets.check_data` and `resnets.pack_data`: what `resnets data` does, as results."""

import json
import shutil
from pathlib import Path

import pytest
from colored_sets import document, draw, put
from digit_folders import write_tree

import resnets
from resnets.cli.main import main

FILES = ("files.csv", "quarantine.txt", "report.html")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Digits in two splits, with an image in both and one that is not an image."""
    monkeypatch.chdir(tmp_path)
    write_tree(Path("photos/train"), count=6)
    write_tree(Path("photos/test"), first=6, count=3)
    leak = min(Path("photos/test/digit1").iterdir())
    shutil.copy(leak, "photos/train/digit1/leak.png")
    Path("photos/train/digit0/broken.png").write_bytes(b"broken")
    return Path("photos")


def test_a_check_gives_counts_and_files_as_the_command_writes_them(photos, capsys):
    report = resnets.check_data(photos, out="ours")
    assert capsys.readouterr() == ("", "")
    assert not report.ok
    assert report.images == {"test": 9, "train": 20}
    assert report.counts["leak"] == report.counts["unreadable"] == 1
    assert next(iter(report.counts)) == "leak"  # the most serious
    assert report.files["leak"] == ["train/digit1/leak.png"]
    assert report.files["unreadable"] == ["train/digit0/broken.png"]
    assert {name: len(files) for name, files in report.files.items()} == report.counts
    assert report.problems == []
    assert report.verdict[0].weight == "leak"
    assert report.report == Path("ours/report.html")
    assert repr(report).startswith("DataReport('ours', 29 images: 1 leak, 1 unreadable")
    assert "<b>leak</b>" in report._repr_html_()

    assert main(["data", "check", "photos", "--out", "theirs"]) == 3
    assert report.verdict[0].text in capsys.readouterr().out
    for name in FILES:
        ours, theirs = (Path(folder, name).read_text() for folder in ("ours", "theirs"))
        assert ours.replace("ours/", "theirs/") == theirs

    clean = resnets.check_data(photos, quarantine=report.quarantine)
    assert clean.ok
    assert clean.folder == Path("photos-check")


def test_bad_boxes_are_named_and_repaired(tmp_path):
    made = document({number: f"p{number}.png" for number in range(4)})
    made["annotations"][0]["category_id"] = 9
    put(tmp_path / "set/annotations/instances_train.json", json.dumps(made))
    for number in range(4):
        draw(tmp_path / f"set/images/p{number}.png", number)
    root, fixed = tmp_path / "set", tmp_path / "fixed"
    report = resnets.check_data(root, out=tmp_path / "out", repair=fixed)
    (problem,) = report.problems
    assert problem.kind == "category"
    assert "1 bad annotation" in repr(report)
    page = report.report.read_text()
    assert problem.item in page
    assert 'href="annotations.csv"' in page
    assert report.repaired.excluded == 1
    assert resnets.check_data(fixed, out=tmp_path / "again").problems == []
    with pytest.raises(resnets.ConfigError, match="already contains annotations"):
        resnets.check_data(root, out=tmp_path / "new", repair=fixed)
    assert not (tmp_path / "new").exists()
    with pytest.raises(resnets.ConfigError, match="^labels_from: labels are in"):
        resnets.check_data(root, labels_from="name")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tiny": -1}, "^tiny=-1"),
        ({"exclude": ["leek"]}, "^exclude=leek: no such finding"),
        ({"exclude": "leek"}, "^exclude=leek: no such finding"),
        ({"out": "photos/train/digit0/broken.png"}, "^out=photos/.*is a file"),
        ({"labels_from": "names"}, "^labels_from='names': must be one of"),
        ({"repair": "fixed"}, "^repair: photos: no annotations"),
        ({"format": "coco"}, "^format: photos: no annotations"),
        ({"quarantine": "nowhere.txt"}, "quarantine: nowhere.txt"),
    ],
)
def test_refused_arguments_of_a_check(photos, options, message):
    with pytest.raises(resnets.ConfigError, match=message) as caught:
        resnets.check_data(photos, **options)
    assert "--" not in str(caught.value)
    assert not Path("photos-check").exists()


def test_a_packed_set_is_that_of_the_command(photos, capsys):
    packed = resnets.pack_data(photos, 8, max_unreadable=0.5)
    assert packed.path == Path("photos-8.pack")
    assert packed.images == {"train": 19, "test": 9}
    assert packed.size == packed.path.stat().st_size
    assert len(packed.unreadable) == 1
    assert capsys.readouterr().out == ""
    words = ["--size", "8", "--out", "theirs.pack", "--max-unreadable", "0.5"]
    assert main(["data", "pack", "photos", *words]) == 1
    assert Path("theirs.pack").read_bytes() == packed.path.read_bytes()
    assert len(resnets.open_data(packed.path, val_fraction=0).train) == 19


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "^size=0"),
        ({"size": "8"}, "^size='8': must be a whole number"),
        ({"out": "set.tar"}, "^out=set.tar: packed data sets end in .pack"),
        ({"out": "no/set.pack"}, "^out=no/set.pack: no such folder no"),
        ({"out": "here.pack"}, "^out=here.pack: already exists"),
    ],
)
def test_refused_arguments_of_packing(photos, options, message):
    Path("here.pack").touch()
    with pytest.raises(resnets.ConfigError, match=message):
        resnets.pack_data(photos, **options)

"""The block of what was understood: by every command, on stderr, in 80 columns, and in files."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnets.bulk.write import classes_layout, vision_layout
from resnets.cli.main import main
from resnets.config import DataSpec, DetectSpec
from resnets.data import open_data
from resnets.data.check.report import COLUMNS
from resnets.data.dataset import summary
from resnets.data.dataset.quarantine_list import write_quarantine
from resnets.data.dataset.summary import MAX_LINES, WIDTH, DataSummary, Rarest, SplitSummary
from resnets.detect.loading.sources import open_detection

TINY = ("--set", "data.size=8", "--set", "batch_size=4", "--set", "model.input_size=8")


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "_printed", set())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two splits with a link, an unlabelled test, a stray, a text file and HEIC's like."""
    root = tmp_path_factory.mktemp("data") / "pets"
    rng = np.random.default_rng(0)
    for place, count in (("Training/cat", 9), ("Training/dog", 6), ("store", 3), ("pred", 2)):
        (root / place).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(root / place / f"{number}.png")
    (root / "store").rename(root.parent / "store")
    for name in ("cat", "dog"):
        (root / "Testing").mkdir(exist_ok=True)
        (root / "Testing" / name).symlink_to(root.parent / "store")
    (root / "Training" / "stray.png").write_bytes((root / "pred" / "0.png").read_bytes())
    (root / "Training" / "cat" / "notes.txt").write_text("x")
    (root / "Training" / "cat" / "raw.dng").write_bytes(b"II*\0")
    return root


def test_the_summary_says_what_was_understood(folder: Path) -> None:
    found = open_data(DataSpec(source=str(folder), in_memory="never")).summary
    assert found.classes == ("cat", "dog")
    assert found.rarest is not None
    assert found.rarest.name == "dog"
    by_role = {each.role: each for each in found.splits}
    assert sum(by_role[role].images for role in ("train", "val")) == 15
    assert by_role["train"].origin == "Training"
    assert "seed 0" in by_role["val"].origin
    assert (by_role["test"].images, by_role["test"].origin) == (6, "Testing")
    assert found.links == 2
    skipped = " ".join(found.skipped)
    for words in ("2 .png (unlabelled", "1 .png (image in no class", "1 .txt", "1 .dng"):
        assert words in skipped
    json.dumps(found.to_json())


def test_quarantined_images_are_counted(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "out.txt"
    listed.write_text("Training/cat/0.png\nTraining/cat/1.png\n")
    spec = DataSpec(source=str(folder), in_memory="never", quarantine=str(listed))
    found = open_data(spec).summary
    assert any("2 entries (in quarantine)" in text for text in found.skipped)
    assert sum(each.images for each in found.splits if each.role != "test") == 13


def test_the_block_is_short_for_any_names(tmp_path: Path) -> None:
    names = tuple(f"class {number} {'of a long name ' * 30}" for number in range(2000))
    splits = [SplitSummary(role, 10**7, "x" * 300) for role in ("train", "val", "test")]
    found = DataSummary(
        "s" * 300,
        names,
        splits,
        Rarest(names[0], 1, tied=False),
        ["y" * 200] * 9,
        3,
        ["z\x1b[2J"] * 9,
    )
    lines = found.lines()
    assert len(lines) <= 4 * MAX_LINES
    assert all(len(line) <= WIDTH and line.isprintable() for line in lines)


def test_commands_print_the_block_on_stderr_and_keep_it(
    folder: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def said(*words: object) -> tuple[str, str]:
        summary._printed.clear()
        main([str(word) for word in words])
        return capsys.readouterr()

    run = tmp_path / "run"
    out, err = said(
        "train", "scratch", "--data", folder, "--iterations", 1, "--out", run,
        "--model", "cifar-resnet8", *TINY,
    )  # fmt: skip
    for words in ("2 classes (cat, dog)", "(Training)", "(Testing)", "2 links", ".dng"):
        assert words in err
    kept = json.loads((run / "result.json").read_text())["data_summary"]
    assert kept["splits"]["test"] == {"images": 6, "origin": "Testing"}
    page = (run / "report.html").read_text()
    assert kept["text"][0] in page
    out, err = said("evaluate", run, "--json")
    assert "2 classes (cat, dog)" in err
    json.loads(out)
    out, err = said("features", run, folder, "--nearest", folder / "pred" / "0.png", "--json")
    assert "pets: 2 classes" in err
    json.loads(out)
    out, err = said("predict", run, folder / "Training", "--json")
    assert "1 .dng" in err
    json.loads(out)
    out, err = said("predict", run, "--data", folder, "--out", tmp_path / "shards")
    assert "1 .dng" in err
    out, err = said("data", "check", folder)
    assert "2 classes (cat, dog)" in err
    out, err = said("data", "pack", folder, "--size", 8, "--out", tmp_path / "pets.pack")
    assert "(Training)" in err


def test_annotated_sets_have_one(shared_data: Path) -> None:
    data = DataSpec(source=str(shared_data / "bccd.tar"))
    found = open_detection(data, DetectSpec(skip_invalid=True))
    assert found.summary.classes == found.classes
    counts = {each.role: each.images for each in found.summary.splits}
    assert counts["train"] == len(found.train)
    assert found.summary.counted == "object"
    assert found.train.summary is found.summary


def test_class_names_that_are_not_utf8_are_shown(tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "PNG")
    for name in (b"caf\xe9", b"the"):
        place = Path(tmp_path, name.decode("utf-8", "surrogateescape"))
        place.mkdir()
        for number in range(3):
            (place / f"{number}.png").write_bytes(image.getvalue() + bytes([number]))
    found = open_data(DataSpec(source=str(tmp_path))).summary
    assert "\\udce9" in found.lines()[0]
    "\n".join(found.lines()).encode("utf-8")


@pytest.mark.parametrize("stated", [False, True])
def test_quarantine_lists_are_not_label_files_and_count_in_all_splits(
    tmp_path: Path, *, stated: bool
) -> None:
    root = tmp_path / "set"
    rng = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for label in ("cat", "dog"):
            (root / part / label).mkdir(parents=True)
            for number in range(5):
                pixels = rng.integers(0, 255, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{part}{number}.png")
    listed = root / ("mine.txt" if stated else "quarantine.txt")
    names = [
        f"{part}/cat/{part}{number}.png" for part in ("train", "val", "test") for number in (0, 1)
    ]
    listed.write_text("\n".join(names))
    spec = DataSpec(source=str(root), in_memory="never", quarantine=str(listed) if stated else None)
    for training in (False, True):
        found = open_data(spec, training=training).summary
        assert not found.warnings
        assert not any(listed.name in note for note in found.notes)
        assert {each.role: each.images for each in found.splits} == dict.fromkeys(
            ("train", "val", "test"), 8
        )
        assert any("6 entries (in quarantine)" in text for text in found.skipped)


def test_what_data_check_and_prediction_write_are_not_label_files(
    folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    shutil.copytree(folder / "Training" / "cat", root / "cat")
    shutil.copytree(folder / "Training" / "dog", root / "dog")
    paths = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(4)]
    write_quarantine(root / "left_out.txt", [(path, "copy") for path in paths])
    written = (classes_layout(1).names, vision_layout("detect").names)
    heads = (COLUMNS, *written, ("path", "class1", "probability1"))
    for place, head in enumerate(heads):
        rows = [head, *([path, "cat", *"0" * (len(head) - 2)] for path in paths)]
        (root / f"written{place}.csv").write_text("\n".join(map(",".join, rows)) + "\n")
    found = open_data(DataSpec(source=str(root), in_memory="never")).summary
    assert not [text for text in (*found.notes, *found.warnings) if "not read" in text]
    (root / "mine.txt").write_text("\n".join(paths))
    found = open_data(DataSpec(source=str(root), in_memory="never")).summary
    assert [text for text in (*found.notes, *found.warnings) if "mine.txt" in text]

"""What a check found is known to later runs on the same set, and told from a set that changed."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnets.cli.main import main
from resnets.config import DataSpec
from resnets.data.check.run import check_data
from resnets.data.sources.open import find_source
from resnets.data.splits.check_results import (
    find_known_leaks,
    fingerprint_source,
    read_record,
    save_record,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """train/ with a copy of a test image."""
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(4):
                pixels = random.integers(0, 256, (6, 8, 3), np.uint8)
                image = Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC)
                image.save(tmp_path / part / label / f"{number}.png")
    copied = Image.open(tmp_path / "test/a/0.png")
    copied.save(tmp_path / "train/a/caf\udce9\n.png", compress_level=1)
    return tmp_path


def listing(root: Path) -> str:
    return fingerprint_source(find_source(DataSpec(source=str(root))), str(root))


def shares(root: Path) -> dict[str, list[str]]:
    paths = {"training": root / "train", "test": root / "test"}
    return {
        role: [path.relative_to(root).as_posix() for path in folder.rglob("*.png")]
        for role, folder in paths.items()
    }


def test_a_record_is_found_again(root: Path) -> None:
    report = check_data(DataSpec(source=str(root), workers=1))
    assert read_record(str(root)) is None
    place = save_record(str(root), report.findings, listing(root), root / "q.txt")
    assert place is not None
    record = read_record(f"{root}/train/..")
    assert record is not None
    known = find_known_leaks(record, listing(root), shares(root))
    assert known.counts == {("training", "test"): 1}
    assert not known.changed
    assert "1 training image is" in known.describe()
    assert known.quarantine in known.describe()
    json.dumps(known.to_json())

    without = {
        role: [path for path in paths if "\udce9" not in path]
        for role, paths in shares(root).items()
    }
    known = find_known_leaks(record, listing(root), without)
    assert (known.total, known.excluded) == (0, 1)

    (root / "train/a/0.png").write_bytes(b"other bytes")
    assert find_known_leaks(record, listing(root), shares(root)).changed

    place.write_text("{")
    assert read_record(str(root)) is None


def test_which_pairs_leak_depends_on_the_shares(root: Path) -> None:
    report = check_data(DataSpec(source=str(root), workers=1))
    save_record(str(root), report.findings, "", root / "q.txt")
    record = read_record(str(root))
    assert record is not None
    together = {"training": [path for paths in shares(root).values() for path in paths]}
    assert find_known_leaks(record, "", together).total == 0
    turned = {"training": shares(root)["test"], "test": shares(root)["training"]}
    assert find_known_leaks(record, "", turned).counts == {("training", "test"): 1}


def test_training_repeats_a_known_leak(
    root: Path, tmp_path_factory, capsys, caplog, monkeypatch
) -> None:
    """In log, result and report; and it says when the set changed, or the list names others."""
    monkeypatch.chdir(tmp_path_factory.mktemp("runs"))
    (root / "train/a/caf\udce9\n.png").rename(root / "train/a/again.png")
    assert main(["data", "check", str(root), "--out", "checked"]) == 3
    small = ["--set", "data.size=16", "--set", "data.resize=16", "--set", "batch_size=4"]
    words = ["train", "scratch", "--data", str(root), "--model", "cifar-resnet8", *small]
    words += ["--iterations", "1", "--set", "data.val_fraction=0"]
    assert main([*words, "--out", "one"]) == 0
    said = "1 training image is a copy or near-copy of test images"
    assert said in " ".join(capsys.readouterr().err.split())
    result = json.loads(Path("one/result.json").read_text("utf-8"))
    assert said in json.dumps(result["history"])
    assert said in Path("one/report.html").read_text("utf-8")

    list_of = Path("checked/quarantine.txt")
    list_of.write_text(list_of.read_text("utf-8") + "train/a/gone.png\n", "utf-8")
    scene = np.random.default_rng(5).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(scene).save(root / "train/b/new.png")
    quarantine = ["--set", f"data.quarantine={list_of.resolve()}"]
    assert main([*words, *quarantine, "--out", "two"]) == 0
    printed = capsys.readouterr().err
    assert said not in printed
    assert "before the data set changed" in printed
    assert "1 of the 2 images it lists are not in the data set" in caplog.text

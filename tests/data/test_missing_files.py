"""Sets that came in part: numbered files and rows that names and README.md promise."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from digit_sets import digit_files

from resnets.bulk.image_index import index_dataset
from resnets.cli.main import main
from resnets.config import DataSpec
from resnets.data import open_data
from resnets.data.files.missing_shards import missing_shards
from resnets.data.sources.open import find_source
from resnets.data.splits.all_images import open_all

WHOLE = DataSpec(val_fraction=0, test_fraction=0, in_memory="never")


@pytest.mark.parametrize(
    ("names", "lost"),
    [
        (
            ["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"],
            ["train-00001-of-00003"],
        ),
        (["a.tfrecord-1-of-2.tar"], ["a.tfrecord-2-of-2", "a.tfrecord-0-of-2"]),
        (["x_of_2.txt", "part_0_of_2.arrow"], ["part_1_of_2"]),
        (["00000.tar", "00001.tar", "00003.tar"], ["00002.tar"]),
        (["0.tar", "1.tar", "4.tar"], ["2.tar, ", "3.tar are"]),
        (["data/train-0007.tar", "data/train-0008.tar"], ["data/train-0000.tar", " and 4 more"]),
        (["train-1.tar", "train-2.tar", "val-1.tar", "val-3.tar"], ["val-2.tar"]),
    ],
)
def test_missing_numbers_are_named(names: list[str], lost: list[str]) -> None:
    (warning,) = missing_shards(names)
    assert any(each in warning for each in lost[:2])
    if not names[0].startswith("a."):  # 1 of 2: which of the two counts begins with 0 is not said
        assert all(each in warning for each in lost)


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        ["train-1-of-2.tar", "train-2-of-2.tar"],
        ["0.tar", "1.tar"],
        ["1.tar", "2.tar", "10.tar", *(f"{number}.tar" for number in range(3, 10))],
        ["2019.tar", "2021.tar"],
        ["pets.tar"],
        ["train-0.tar", "test-1.tar"],
        ["train.parquet", "test.parquet"],
    ],
)
def test_whole_series_and_other_numbers_are_quiet(names: list[str]) -> None:
    assert missing_shards(names) == []


def test_two_uploads_in_one_folder_are_named() -> None:
    names = [f"train-{number}-of-{total}.parquet" for total in (2, 3) for number in range(total)]
    (warning,) = missing_shards(names)
    assert "2 and 3" in warning


def hub_clone(root: Path, shards: tuple[int, ...], stated: int, total: int = 3) -> Path:
    """What `git clone` of a set of the Hub leaves, with some of its training files."""
    datasets = pytest.importorskip("datasets")
    images = digit_files(12)
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["0", "1", "2", "3"])
    )
    (root / "data").mkdir(parents=True)
    splits = {f"train-{each:05d}-of-{total:05d}": (8 * each, 8 * each + 8) for each in shards}
    splits["test-00000-of-00001"] = (32, 48)
    for name, (start, end) in splits.items():
        columns = {
            "image": [{"bytes": data, "path": None} for data, _ in images[start:end]],
            "label": [label for _, label in images[start:end]],
        }
        table = datasets.Dataset.from_dict(columns, features)
        table.to_parquet(str(root / "data" / f"{name}.parquet"))
    (root / "README.md").write_text(
        "---\ndataset_info:\n  splits:\n  - name: train\n    num_bytes: 1\n"
        f"    num_examples: {stated}\n  - name: test\n    num_examples: 16\n---\n# digits\n"
    )
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_clone_of_the_hub_in_part(tmp_path: Path, streaming: bool) -> None:
    spec = replace(WHOLE, streaming=streaming)
    part = hub_clone(tmp_path / "part", (0, 2), 24)
    warnings = open_data(replace(spec, source=str(part))).summary.warnings
    assert len(warnings) == 2
    assert "train-00001-of-00003.parquet" in warnings[0]
    assert "24 images of train" in warnings[1]
    assert "16" in warnings[1]
    whole = hub_clone(tmp_path / "whole", (0, 1, 2), 24)
    assert find_source(replace(spec, source=str(whole))).warnings == ()
    fewer = hub_clone(tmp_path / "fewer", (0, 1), 24, total=2)
    (only,) = find_source(replace(spec, source=str(fewer))).warnings
    assert "24 images of train" in only


def test_every_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = hub_clone(tmp_path / "part", (0, 2), 24)
    lost = "train-00001-of-00003.parquet"
    (tmp_path / "work").mkdir()
    assert any(lost in each for each in index_dataset(str(part), tmp_path / "work").warnings)
    assert any(lost in each for each in open_all(DataSpec(source=str(part))).summary.warnings)
    assert main(["data", "check", str(part), "--out", str(tmp_path / "check")]) == 0
    said = capsys.readouterr().out
    assert any(line.startswith("exit code 0, with 2 warnings") for line in said.splitlines())
    assert lost in said


def shard(path: Path, samples: list[tuple[bytes, int]], first: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, (data, label) in enumerate(samples, first):
            for suffix, body in (("cls", str(label).encode()), ("png", data)):
                member = tarfile.TarInfo(f"s{number:07d}.{suffix}")
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))


@pytest.mark.parametrize("streaming", [False, True])
def test_shards_in_a_folder_for_each_split(tmp_path: Path, streaming: bool) -> None:
    """As clip-benchmark has them: both splits number their samples from 0."""
    images = digit_files(12)
    for split, start, end in (("train", 0, 32), ("test", 32, 48)):
        for number in range(2):
            each = (end - start) // 2
            rows = images[start + number * each : start + (number + 1) * each]
            shard(tmp_path / "set" / split / f"{number}.tar", rows, number * each)
        (tmp_path / "set" / split / "nshards.txt").write_text("2")
    (tmp_path / "set" / "classnames.txt").write_text("nought\none\ntwo\nthree")
    spec = replace(WHOLE, source=str(tmp_path / "set"), streaming=streaming)
    splits = open_data(spec)
    assert splits.classes == ("nought", "one", "two", "three")
    assert splits.summary.warnings == ()
    test = splits.test()
    for split, rows in ((splits.train, images[:32]), (test, images[32:])):
        assert split.labels.tolist() == [label for _, label in rows]
        assert [split.files.read(row) for row in range(len(split))] == [data for data, _ in rows]
    (tmp_path / "set" / "train" / "1.tar").unlink()
    (warning,) = open_data(spec).summary.warnings
    assert "nshards.txt" in warning
    shard(tmp_path / "set" / "train" / "2.tar", images[16:32], 16)
    (warning,) = open_data(spec).summary.warnings
    assert "1.tar" in warning


def test_tables_next_to_tars_of_images_are_not_the_set(tmp_path: Path) -> None:
    """img2dataset writes a table of URLs and captions for each tar."""
    pa = pytest.importorskip("pyarrow")
    for number in range(2):
        shard(tmp_path / "set" / f"{number:05d}.tar", digit_files(4)[: 8 + number], 10 * number)
        table = pa.table({"url": ["http://x/1.jpg"], "caption": ["one"], "key": ["s1"]})
        pa.parquet.write_table(table, tmp_path / "set" / f"{number:05d}.parquet")
        (tmp_path / "set" / f"{number:05d}_stats.json").write_text(json.dumps({"successes": 8}))
    source = find_source(DataSpec(source=str(tmp_path / "set")))
    assert len(source.train.labels) == 17
    (tmp_path / "work").mkdir()
    assert index_dataset(str(tmp_path / "set"), tmp_path / "work").count == 17


@pytest.mark.parametrize("folder", ["", "train/"])
def test_rows_of_a_table_that_name_no_image_are_warned_about(tmp_path: Path, folder: str) -> None:
    for number, (data, _) in enumerate(list(digit_files(8))[:8]):
        image = tmp_path / folder / f"{number}.png"
        image.parent.mkdir(exist_ok=True)
        image.write_bytes(data)
    rows = [f"{number}.png,{'cat' if number % 2 else 'dog'}" for number in range(10)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["path,label", *rows[:8]]))
    spec = replace(WHOLE, source=str(tmp_path))
    assert find_source(spec).warnings == ()
    table.write_text("\n".join(["path,label", *rows]))
    (warning,) = find_source(spec).warnings
    assert "line 10: there is no image 8.png, nor those of 1 more row" in warning
    if folder == "train/":  # a row of another split is not missing
        (tmp_path / "test").mkdir()
        for number in (8, 9):
            (tmp_path / f"train/{number - 8}.png").replace(tmp_path / f"test/{number}.png")
        table.write_text("\n".join(["path,label", *rows[2:]]))
        source = find_source(spec)
        assert (source.warnings, source.test_images) == ((), 2)

"""Bulk prediction of data sets in all formats: one row per image."""

import json
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_runs import predict_here, rows
from detect_models import FPN, SEGMENT, small_model
from PIL import Image
from serving import encoded_image, save_vision

from resnets.bulk import tables
from resnets.cli.main import main
from resnets.data.errors import DataError
from resnets.runtime.vision import open_predictor


def _csv(folder: Path, paths: list[str], out: Path) -> Path:
    shutil.copytree(folder, out / "files")
    file = out / "set.csv"
    file.write_text("label,file\n" + "".join(f"?,files/{p}\n" for p in paths), "utf-8")
    return file


def _text(folder: Path, paths: list[str], out: Path) -> Path:
    file = out / "set.txt"
    file.write_text("\n".join(str(folder / path) for path in paths), "utf-8")
    return file


def _tar(folder: Path, paths: list[str], out: Path, kind: str = "") -> Path:
    file = out / f"set.tar{kind and '.'}{kind}"
    with tarfile.open(file, f"w:{kind}") as tar:
        for path in paths:
            tar.add(folder / path, path)
    return file


def _shards(folder: Path, paths: list[str], out: Path) -> Path:
    """WebDataset, of which one image has no label."""
    (out / "notes.txt").touch()
    for number in range(2):
        with tarfile.open(out / f"set-{number}.tar", "w") as tar:
            for path in paths[number * 20 : number * 20 + 20 + 8 * number]:
                tar.add(folder / path, Path(path).name)
                if path != paths[3]:
                    tar.add(out / "notes.txt", f"{Path(path).stem}.cls")
    return out


def _parquet(folder: Path, paths: list[str], out: Path) -> Path:
    """Two files without labels: one of a single row group, one of small ones, with structs."""
    cells = [(folder / path).read_bytes() for path in paths]
    pq.write_table(pa.table({"n": range(30), "image": cells[:30]}), out / "a.parquet")
    structs = [{"bytes": cell, "path": None} for cell in cells[30:]]
    pq.write_table(pa.table({"image": structs}), out / "b.parquet", row_group_size=7)
    return out


def _arrow(folder: Path, paths: list[str], out: Path) -> Path:
    import datasets

    cells = [{"bytes": (folder / path).read_bytes(), "path": None} for path in paths]
    made = datasets.Dataset.from_dict({"image": cells})
    made.cast_column("image", datasets.Image()).save_to_disk(str(out / "saved"))
    return out / "saved"


KINDS = {
    "csv": (_csv, "files/{path}"),
    "text": (_text, "{folder}/{path}"),
    "tar": (_tar, "{path}"),
    "tar.gz": (lambda *args: _tar(*args, kind="gz"), "{path}"),
    "webdataset": (_shards, "set-{half}.tar:{name}"),
    "parquet": (_parquet, "{file}.parquet:{in_file}"),
    "arrow": (_arrow, "saved:{row}"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_sets_of_all_kinds_give_the_same_rows(kind, digits_run, nested_digits, bulk_rows, tmp_path):
    folder, paths = nested_digits
    make, naming = KINDS[kind]
    if kind == "webdataset":  # flat, and sorted in each
        paths = sorted(paths[:20], key=_last) + sorted(paths[20:], key=_last)
    (tmp_path / "set").mkdir()
    data = make(folder, paths, tmp_path / "set")
    # Shards that begin and end anywhere in row groups and files.
    predict_here(digits_run, data, tmp_path / "out", top=3, shard_size=11)
    found = rows(tmp_path / "out")
    names = [
        naming.format(
            path=path, folder=folder, row=row, name=_last(path), half=int(row >= 20),
            file="ab"[row >= 30], in_file=row - 30 * (row >= 30),
        )
        for row, path in enumerate(paths)
    ]  # fmt: skip
    assert [row["path"] for row in found] == names
    for row, other in zip(found, (bulk_rows[_last(path)] for path in paths), strict=True):
        assert row["class1"] == other["class1"]
        assert row["probability1"] == pytest.approx(other["probability1"], abs=1e-5)  # its batch
    assert not (tmp_path / "out" / ".work").exists()


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def test_a_damaged_row_group_costs_its_rows_only(digits_run, nested_digits, tmp_path):
    file = tmp_path / "set.parquet"
    cells = [(nested_digits[0] / path).read_bytes() for path in nested_digits[1]]
    pq.write_table(pa.table({"image": cells}), file, row_group_size=10, compression="none")
    place = pq.read_metadata(file).row_group(2).column(0).data_page_offset
    data = bytearray(file.read_bytes())
    data[place : place + 40] = bytes(40)
    file.write_bytes(data)
    predict_here(digits_run, file, tmp_path / "out", shard_size=16)
    bad = [row["path"] for row in rows(tmp_path / "out") if row["error"]]
    assert bad == [f"set.parquet:{row}" for row in range(20, 30)]


def test_a_file_that_became_shorter_gives_bad_rows_only(nested_digits, tmp_path, monkeypatch):
    file = tmp_path / "set.parquet"
    cells = [(nested_digits[0] / path).read_bytes() for path in nested_digits[1]]
    pq.write_table(pa.table({"image": cells}), file, row_group_size=20)
    found = tables.index_parquet(str(file))

    def problems() -> set[str]:
        items = list(tables.ParquetImages(found).items(0, 48))
        assert [item.name for item in items] == [f"set.parquet:{row}" for row in range(48)]
        said = set()
        for item in items:
            with pytest.raises(DataError) as caught:
                item.read()
            said.add(str(caught.value))
        return said

    with monkeypatch.context() as patch:  # its footer is what it was
        patch.setattr(tables._File, "_read", lambda self, group: iter(()))
        ends = {f"{file}: cannot be read (the file ends before row {row})" for row in (0, 20, 40)}
        assert problems() == ends
    pq.write_table(pa.table({"image": cells[10:35]}), file, row_group_size=20)
    assert problems() == {f"{file}: cannot be read (the file has changed since it was indexed)"}


def test_the_hub_is_read_in_place_and_its_timeouts_are_not_unreadable_images(
    digits_run, nested_digits, tmp_path, monkeypatch
):
    """The Hub's listing is made up, its files are read as any that fsspec opens by a url."""
    cells = [(nested_digits[0] / path).read_bytes() for path in nested_digits[1]]
    urls = {"train": [], "test": []}
    for part, start in (("train", 0), ("train", 20), ("test", 40)):
        file = tmp_path / f"{start}.parquet"
        pq.write_table(pa.table({"image": cells[start : start + 20]}), file, row_group_size=6)
        urls[part].append(f"file://{file}")
    listing = SimpleNamespace(config=SimpleNamespace(data_files=urls))
    monkeypatch.setattr(tables, "load_builder", lambda source: listing)
    predict_here(digits_run, "hub:pets/cats", tmp_path / "out", shard_size=17)
    names = [f"pets/cats/train:{row}" for row in range(40)]
    assert [row["path"] for row in rows(tmp_path / "out")] == [
        *names, *(f"pets/cats/test:{row}" for row in range(8)),
    ]  # fmt: skip
    monkeypatch.setattr(tables, "RETRY_DELAYS", (0, 0, 0))
    images = tables.ParquetImages(tables.index_parquet("hub:pets/cats"))
    (tmp_path / "20.parquet").unlink()
    with pytest.raises(DataError, match=r"20\.parquet"):
        list(images.items(15, 25))


def test_pixel_values_are_told_before_work_begins(digits_run, tmp_path, capsys):
    """12 bits in 16-bit files, with a network of 8-bit images: a sample says it, no decoding."""
    rng = np.random.default_rng(0)
    (tmp_path / "deep").mkdir()
    for number in range(4):
        pixels = rng.integers(0, 4096, (16, 16)).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / "deep" / f"{number}.png")
    predict_here(digits_run, tmp_path / "deep", tmp_path / "out")
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("warning: ") and "16" in line]


@pytest.mark.parametrize(
    ("task", "kind"),
    [("detect", "parquet"), pytest.param("instances", "csv", marks=pytest.mark.ci)],
)
def test_objects_of_a_detector_are_rows_of_a_table(task, kind, tmp_path, capsys):
    weights = save_vision(tmp_path / "net.safetensors", small_model(FPN, task), task)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encoded_image(90, 70, seed=number))
    (folder / "bad.png").write_bytes(b"not an image")
    predict_here(weights, folder, tmp_path / "out", format=kind, threshold=0.05, shard_size=2)
    found = {row["path"]: row for row in rows(tmp_path / "out")}
    assert sorted(found) == ["0.png", "1.png", "2.png", "bad.png"]
    assert found.pop("bad.png")["error"]
    predictor = open_predictor([weights], "cpu", "auto")
    count = 0
    for path, row in found.items():
        inputs = predictor.prepare((folder / path).read_bytes(), path)
        expected = predictor.infer([inputs])[0].above(0.05).to_json(("disc", "box", "star"))
        actual = json.loads(row["objects"]) if kind == "csv" else row["objects"]
        assert (int(row["width"]), int(row["height"])) == (90, 70)
        assert [each["class"] for each in actual] == [each["class"] for each in expected["objects"]]
        for one, other in zip(actual, expected["objects"], strict=True):
            assert one["box"] == pytest.approx(other["box"], abs=0.02)
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)
            assert ("mask" in one) == (task == "instances")
        count += len(actual)
    summary = json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert summary["unreadable"] == 1
    assert sum(summary["objects"].values()) == count > 0
    words = ["predict", weights, "--data", str(folder), "--out", str(tmp_path / "out")]
    assert main([*words, "--format", kind, "--threshold", "0.3"]) == 2
    assert "threshold" in capsys.readouterr().err


def test_a_segmenter_gives_areas(tmp_path):
    weights = save_vision(tmp_path / "net.safetensors", small_model(SEGMENT, "segment"), "segment")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "0.png").write_bytes(encoded_image(90, 70))
    predict_here(weights, folder, tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert sum(each["share"] for each in row["areas"]) == pytest.approx(1, abs=1e-4)

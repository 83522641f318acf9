"""Commands that need no classes take images in any folders: flat, nested, of one class."""

import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from digit_sets import digit_files

from resnets.cli.main import main

DIGITS = digit_files(3)  # 12 images of the digits 0 to 3

FORMS = {
    "flat": lambda number, digit: f"{number:02}.png",
    "nested": lambda number, digit: f"{number % 2}/deep/{number % 3}/{number:02}.png",
    "one class": lambda number, digit: f"all/{number:02}.png",
    "one class, nested": lambda number, digit: f"set/all/of it/{number:02}.png",
    "classes": lambda number, digit: f"{digit}/{number:02}.png",
    "classes and others": lambda number, digit: f"{digit}/{number:02}.png" if number else "x.png",
    "parts": lambda number, digit: f"{('train', 'test')[number % 2]}/{digit}/{number:02}.png",
    "flat parts": lambda number, digit: f"{('train', 'test')[number % 2]}/{number:02}.png",
    "names without suffix": lambda number, digit: f"a/{number:02}",
}


@pytest.fixture(params=FORMS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for number, (data, digit) in enumerate(DIGITS):
        path = root / FORMS[request.param](number, digit)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def labels_of(folder: Path, file: Path) -> Path:
    digits = {f"{number:02}": digit for number, (_, digit) in enumerate(DIGITS)}
    digits["x"] = DIGITS[0][1]
    rows = [f"{path.relative_to(folder).as_posix()},{digits[path.stem]}" for path in files(folder)]
    file.write_text("path,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return file


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_features_writes_every_image(digits_run: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.parquet"
    assert main(["features", str(digits_run), str(folder), "--out", str(out)]) == 0
    paths = pq.read_table(out)["path"].to_pylist()
    assert sorted(paths) == [str(path) for path in files(folder)]


def test_evaluate_with_a_file_of_labels(
    digits_run: Path, folder: Path, tmp_path: Path, capsys
) -> None:
    labels = labels_of(folder, tmp_path / "labels.csv")
    words = ["evaluate", str(digits_run), "--data", str(folder), "--labels", str(labels), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["examples"] in (12, 6)  # a test part is measured alone
    if not (folder / "test").is_dir():
        assert found["examples"] == 12
    assert found["top1_error"] < 20


@pytest.mark.parametrize("folder", ["nested", "flat parts"], indirect=True)
def test_predict_names_every_image(digits_run: Path, folder: Path, tmp_path: Path, capsys) -> None:
    assert main(["predict", str(digits_run), str(folder), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["path"] for row in rows] == [str(path) for path in files(folder)]
    out = tmp_path / "rows"
    assert main(["predict", str(digits_run), "--data", str(folder), "--out", str(out)]) == 0
    found = [
        path
        for shard in sorted(out.glob("*.parquet"))
        for path in pq.read_table(shard)["path"].to_pylist()
    ]
    assert sorted(found) == [path.relative_to(folder).as_posix() for path in files(folder)]


def test_features_of_an_archive_of_one_class(digits_run: Path, tmp_path: Path) -> None:
    for number, (data, _) in enumerate(DIGITS):
        (tmp_path / f"{number:02}.png").write_bytes(data)
    with tarfile.open(tmp_path / "flat.tar", "w") as tar:
        for path in sorted(tmp_path.glob("*.png")):
            tar.add(path, path.name)
    out = tmp_path / "features.parquet"
    words = ["features", str(digits_run), str(tmp_path / "flat.tar"), "--out", str(out)]
    assert main(words) == 0
    assert pq.read_table(out).num_rows == 12


def test_features_of_the_set_that_was_trained_on(digits_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.parquet"
    assert main(["features", str(digits_run), "digits", "--out", str(out)]) == 0
    assert pq.read_table(out).num_rows == 1797
    words = ["features", str(digits_run), "digits", "--out", str(out), "--split", "test"]
    assert main(words) == 0
    assert 300 < pq.read_table(out).num_rows < 420

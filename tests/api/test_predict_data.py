"""`resnets.predict_data`: what the command writes, from Python."""

import csv
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from bulk_runs import predict_here, rows

import resnets
from resnets.config import ConfigError


def test_predictions_are_those_of_the_command_and_of_predict(
    digits_run: Path, nested_digits: tuple[Path, list[str]], tmp_path: Path, capfd
) -> None:
    folder, paths = nested_digits
    threads = torch.get_num_threads()
    found = resnets.predict_data(digits_run, folder, tmp_path / "out", shard_size=20, top_k=3)
    assert capfd.readouterr().err == ""
    assert torch.get_num_threads() == threads
    assert (found.images, found.unreadable, found.errors) == (48, 0, ())
    assert [path.name for path in found.shards] == [f"part-{n:05}.parquet" for n in range(3)]
    assert all(path.parent == found.folder for path in found.shards)
    written = rows(found.folder)
    assert [row["path"] for row in written] == paths
    predict_here(digits_run, folder, tmp_path / "command", top=3, shard_size=20)
    assert rows(tmp_path / "command") == written
    direct = resnets.predict(digits_run, [folder / path for path in paths])
    assert [row["class1"] for row in written] == [each.classes[0] for each in direct]
    assert found.counts == {
        name: sum(each.classes[0] == name for each in direct)
        for name in sorted({each.classes[0] for each in direct})
    }


def test_a_second_call_computes_missing_shards_only(
    digits_run: Path, nested_digits: tuple[Path, list[str]], tmp_path: Path
) -> None:
    options = {"out": tmp_path / "out", "format": "csv", "shard_size": 12}
    first = resnets.predict_data(digits_run, nested_digits[0], **options)
    texts = {path: path.read_text("utf-8") for path in first.shards}
    times = {path: path.stat().st_mtime_ns for path in first.shards}
    first.shards[2].unlink()
    assert resnets.predict_data(digits_run, nested_digits[0], **options) == first
    assert {path: path.read_text("utf-8") for path in first.shards} == texts
    again = [path for path in first.shards if path.stat().st_mtime_ns != times[path]]
    assert again == [first.shards[2]]
    with pytest.raises(ConfigError, match="top_k"):
        resnets.predict_data(digits_run, nested_digits[0], top_k=2, **options)


def test_unreadable_images_have_an_error(digits_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "empty.png").write_bytes(b"")
    found = resnets.predict_data(digits_run, folder, tmp_path / "out", format="csv")
    assert (found.images, found.unreadable, found.counts) == (1, 1, {})
    assert "empty.png" in found.errors[0]
    with found.shards[0].open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["error"]


def test_options_that_have_no_effect_are_refused(digits_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        resnets.predict_data(digits_run, tmp_path, tmp_path / "out", threshold=0.1)
    with pytest.raises(ConfigError, match="out"):
        resnets.predict_data(digits_run, tmp_path, "s3://bucket/out")
    assert list(tmp_path.iterdir()) == []


def test_a_script_needs_no_main_guard(
    digits_run: Path, nested_digits: tuple[Path, list[str]], tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import resnets\n"
        f"found = resnets.predict_data({str(digits_run)!r}, {str(nested_digits[0])!r},"
        " out='out', processes=2, shard_size=10)\n"
        "print(found.images)\n"
    )
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "48\n"


def test_missing_shards_are_a_warning(
    digits_run: Path,
    nested_digits: tuple[Path, list[str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in (0, 2):
        with tarfile.open(folder / f"train-{number:05}-of-00003.tar", "w") as tar:
            tar.add(nested_digits[0] / nested_digits[1][number], f"{number}.png")
    found = resnets.predict_data(digits_run, folder, tmp_path / "out")
    assert found.images == 2
    assert any("00001" in warning for warning in found.warnings)
    assert any("00001" in message for message in caplog.messages)

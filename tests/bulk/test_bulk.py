"""Bulk prediction: all data formats, rows in order, unreadable images, resumed runs."""

import importlib.util
import json
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from bulk_runs import (
    DIGITS,
    contents,
    kill,
    predict_here,
    rows,
    save_digits,
    save_list,
    start,
    wait_for_shards,
)

from resnets.bulk.plan import MAX_ATTEMPTS, lock_output
from resnets.bulk.pool import ShardDone, ShardFailed
from resnets.bulk.run import BulkOptions, prepare_run
from resnets.bulk.worker import ShardWorker
from resnets.bulk.write import classes_layout
from resnets.cli.main import main
from resnets.config import ConfigError
from resnets.data.errors import DataError
from resnets.utils.machine.environment import pick_device


def test_rows_are_those_of_predict_on_single_images(digits_run, nested_digits, bulk_rows, capsys):
    paths = [str(nested_digits[0] / path) for path in nested_digits[1]]
    assert (
        main(["predict", str(digits_run), *paths, "--json", "--top", "3", "--backend", "torch"])
        == 0
    )
    for entry in json.loads(capsys.readouterr().out):
        row = bulk_rows[Path(entry["path"]).name]
        best = entry["predictions"]
        assert [row[f"class{k}"] for k in (1, 2, 3)] == [each["class"] for each in best]
        shares = [row[f"probability{k}"] for k in (1, 2, 3)]
        assert shares == pytest.approx([each["probability"] for each in best], abs=2e-3)
    right = sum(name[0] == row["class1"] == str(row["id1"]) for name, row in bulk_rows.items())
    assert right > 0.9 * len(bulk_rows)


def test_csv_shards_hold_what_parquet_shards_hold(digits_run, nested_digits, tmp_path):
    for kind in ("parquet", "csv"):
        predict_here(
            digits_run, nested_digits[0], tmp_path / kind, format=kind, top=2, shard_size=13
        )
    assert [part.name for part in sorted((tmp_path / "csv").glob("part-*"))] == [
        f"part-0000{number}.csv" for number in range(4)
    ]
    table = pq.read_table(tmp_path / "parquet" / "part-00000.parquet")
    assert table.column_names == classes_layout(2).names == [
        "path", "class1", "id1", "probability1", "class2", "id2", "probability2", "error",
    ]  # fmt: skip
    for one, other in zip(rows(tmp_path / "parquet"), rows(tmp_path / "csv"), strict=True):
        assert other["error"] == ""
        assert (one["path"], one["class1"], str(one["id2"])) == (
            other["path"], other["class1"], other["id2"],
        )  # fmt: skip
        assert one["probability1"] == pytest.approx(float(other["probability1"]), rel=1e-5)


def test_bad_images_are_rows_with_an_error_and_counted(digits_run, tmp_path):
    folder = tmp_path / "set"
    save_digits(folder)
    (folder / "a-cut.png").write_bytes(DIGITS[0][0][:60])
    (folder / 'b\n,".png').write_bytes(DIGITS[1][0])  # a name that CSV has to quote
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    with open(bytes(folder) + b"/c\xff.png", "wb") as file:  # no UTF-8
        file.write(DIGITS[2][0])
    (folder / "notes.doc").touch()
    for kind in ("csv", "parquet"):
        out = tmp_path / kind
        predict_here(digits_run, folder, out, format=kind, shard_size=20)
        found = {row["path"]: row for row in rows(out)}
        assert len(found) == len(DIGITS) + 4
        assert found['b\n,".png']["class1"] == str(DIGITS[1][1])
        assert found["c\\udcff.png"]["class1"] == str(DIGITS[2][1])
        assert not found["a-cut.png"]["class1"]
        assert "set/" not in found["a-cut.png"]["error"]
        assert found["gone.png"]["error"].startswith("cannot be read (No such file")
        summary = json.loads((out / "_summary.json").read_text())
        assert (summary["images"], summary["unreadable"]) == (52, 2)
        assert sum(summary["top_classes"].values()) == 50
        assert summary["first_errors"][0].startswith("a-cut.png: ")


def test_a_set_that_disappears_is_not_reported_as_unreadable_images(digits_run, tmp_path):
    folder, out = tmp_path / "set", tmp_path / "out"
    save_digits(folder)
    with lock_output(out):
        wanted = BulkOptions(str(digits_run), str(folder), out, backend="torch", shard_size=20)
        worker = ShardWorker(prepare_run(wanted, print).job)
        worker.process_shard(0, lambda count: None)
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(DataError, match="no longer exists"):
            worker.process_shard(1, lambda count: None)
    assert [part.name for part in out.glob("*part*")] == ["part-00000.parquet"]
    (tmp_path / "elsewhere").rename(folder)
    predict_here(digits_run, folder, out, shard_size=20)
    assert len(rows(out)) == len(DIGITS)


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_all_workers_compute_on_what_the_first_process_found(
    digits_run, nested_digits, tmp_path, engine
):
    out, data = tmp_path / "out", str(nested_digits[0])
    with lock_output(out):
        run = prepare_run(
            BulkOptions(str(digits_run), data, out, backend="torch", engine=engine), print
        )
        assert run.job.device == run.manifest.options.device == pick_device().type
        plain = json.loads((out / "_manifest.json").read_text())
        plain["options"]["device"] = "mps"
        (out / "_manifest.json").write_text(json.dumps(plain))
        with pytest.raises(ConfigError, match="out: was started on mps"):
            ShardWorker(run.job)


def test_a_shard_that_killed_three_workers_is_left_to_the_next_run(
    digits_run, nested_digits, tmp_path
):
    out = tmp_path / "out"
    with lock_output(out):
        wanted = BulkOptions(
            str(digits_run), str(nested_digits[0]), out, backend="torch", shard_size=20
        )
        worker = ShardWorker(prepare_run(wanted, print).job)
        for _ in range(MAX_ATTEMPTS):  # what killed workers leave behind
            assert worker.attempts.begin(1)
        assert [type(worker.process_shard(shard, lambda count: None)) for shard in range(3)] == [
            ShardDone, ShardFailed, ShardDone,
        ]  # fmt: skip
    run = predict_here(digits_run, nested_digits[0], out, shard_size=20)
    assert run.missing == (1,)
    assert len(rows(out)) == len(DIGITS)


def test_only_what_is_missing_or_damaged_is_done_again(digits_run, nested_digits, tmp_path):
    out = tmp_path / "out"
    for kind in ("parquet", "csv"):
        predict_here(digits_run, nested_digits[0], out, format=kind, shard_size=10)
        before = contents(out)
        parts = sorted(out.glob("part-*"))
        times = [part.stat().st_mtime_ns for part in parts]
        parts[1].unlink()
        parts[3].write_bytes(parts[3].read_bytes()[:-100])
        run = predict_here(digits_run, nested_digits[0], out, format=kind, shard_size=10)
        assert run.missing == (1, 3)
        assert contents(out) == before
        after = [part.stat().st_mtime_ns for part in parts]
        assert [one == other for one, other in zip(times, after, strict=True)] == [
            True, False, True, False, True,
        ]  # fmt: skip
        assert predict_here(digits_run, nested_digits[0], out, format=kind, shard_size=10).finished
        shutil.rmtree(out)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_shard_with_the_right_number_of_wrong_rows_is_done_again(
    digits_run, nested_digits, tmp_path, kind
):
    out = tmp_path / "out"
    options = {"format": kind, "shard_size": 10}
    predict_here(digits_run, nested_digits[0], out, **options)
    before = contents(out)
    parts = sorted(out.glob("part-*"))
    shutil.copyfile(parts[0], parts[2])  # as many rows, of other images
    damaged = bytearray(parts[1].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    parts[1].write_bytes(damaged)
    said = []
    with lock_output(out):
        run = prepare_run(
            BulkOptions(str(digits_run), str(nested_digits[0]), out, **options), said.append
        )
        assert run.missing == (1, 2)
        assert any("2 of 5 shards" in each for each in said)
    predict_here(digits_run, nested_digits[0], out, **options)
    assert contents(out) == before
    summary = json.loads((out / "_summary.json").read_text())
    assert sorted(summary["sha256"]) == [each.name for each in parts]
    del summary["sha256"]  # as an earlier version left it: nothing proves what is in the shards
    (out / "_summary.json").write_text(json.dumps(summary))
    assert len(predict_here(digits_run, nested_digits[0], out, **options).missing) == 5
    assert contents(out) == before


def test_another_set_model_or_option_is_rejected(digits_run, nested_digits, tmp_path):
    out = tmp_path / "out"
    folder = shutil.copytree(nested_digits[0], tmp_path / "set")
    predict_here(digits_run, folder, out, top=3)
    for option, wanted in (("top", 2), ("format", "csv"), ("shard_size", 7), ("batch", 9)):
        with pytest.raises(ConfigError, match=rf"out: was started with \S+ \w+, not {wanted}; "):
            predict_here(digits_run, folder, out, **{"top": 3, option: wanted})
    begun = json.loads((out / "_manifest.json").read_text())["options"]["precision"]
    other = "float32" if begun == "bfloat16" else "bfloat16"
    with pytest.raises(ConfigError, match=f"with --precision {begun}, not {other}; "):
        predict_here(digits_run, folder, out, top=3, precision=other)
    other = Path(shutil.copytree(digits_run, tmp_path / "other"))
    _change_a_weight(other)
    with pytest.raises(ConfigError, match=f"started with {digits_run}, not {other}; "):
        predict_here(other, folder, out, top=3)
    (folder / "zero.png").write_bytes(DIGITS[0][0])
    with pytest.raises(ConfigError, match=r"48 images of \S+set, .* 49 "):
        predict_here(digits_run, folder, out, top=3)


def _change_a_weight(run: Path) -> None:
    from checkpoint_files import save_checkpoint

    from resnets.weights.checkpoint.find import find_checkpoint
    from resnets.weights.checkpoint.format import read_checkpoint

    path = find_checkpoint(run)
    held = read_checkpoint(path)
    name = "model/head.weight"
    save_checkpoint(path, {**held.tensors, name: held.tensors[name] + 1}, held.meta)


def test_folders_that_cannot_be_written_to_are_rejected(digits_run, nested_digits, tmp_path):
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "thesis.doc").touch()
    file.touch()
    for out, message in (
        (full, "is not empty"),
        (file, "is a file"),
        (nested_digits[0] / "out", "is inside --data"),
    ):
        with pytest.raises(ConfigError, match=message):
            predict_here(digits_run, nested_digits[0], out)
    assert not (nested_digits[0] / "out").exists()
    out = tmp_path / "out"
    with lock_output(out), pytest.raises(ConfigError, match="is writing into it"):
        predict_here(digits_run, nested_digits[0], out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: contains no images"):
        predict_here(digits_run, tmp_path / "empty", out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.png", "--data", "x", "--out", "y"], "IMAGES: "),
        (["--data", "x"], "--data and --out"),
        (["--data", "x", "--out", "y", "--json"], "--json: "),
        (["--data", "nowhere", "--out", "{tmp}/y"], "nowhere: no such folder or file"),
        (["--data", "x", "--out", "{tmp}/y", "--top-k", "0"], "--top-k"),
        (["--data", "x", "--out", "{tmp}/y", "--batch-size", "0"], "--batch-size 0"),
        (["--data", "x", "--out", "{tmp}/y", "--threshold", "3"], "--threshold 3.0"),
    ],
)
def test_one_line_says_what_is_wrong(digits_run, words, message, tmp_path, capsys):
    assert main(["predict", str(digits_run), *(word.format(tmp=tmp_path) for word in words)]) > 0
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "y").exists()


@pytest.mark.slow
def test_kills_neither_lose_nor_duplicate_rows(digits_run, tmp_path):
    """SIGTERM, three SIGKILLs, of the first process or of all, then to the end by two processes."""
    data = save_list(tmp_path, 4000)
    predict_here(digits_run, data, tmp_path / "whole", shard_size=50, format="csv")
    out, words = tmp_path / "out", ("--shard-size", "50", "--format", "csv", "--processes", "2")
    luck = np.random.default_rng()
    for how in ("SIGTERM", "all", "first", "all"):
        process = start(digits_run, data, out, *words)
        wait_for_shards(process, out, len(list(out.glob("part-*"))) + int(luck.integers(1, 9)))
        assert process.poll() is None
        if how == "SIGTERM":
            _stop(process, out)
        else:
            kill(process, group=how == "all")
    process = start(digits_run, data, out, *words)
    _, told = process.communicate()
    assert process.returncode == 0, told
    assert "resuming: " in told
    assert contents(out) == contents(tmp_path / "whole")
    names = data.read_text("utf-8").splitlines()[1:]
    assert [row["path"] for row in rows(out)] == [name.partition(",")[0] for name in names]


def _stop(process: subprocess.Popen, out: Path) -> None:
    """Send SIGTERM, after which the last line says what is there and how to go on."""
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 143
    written = 50 * len(list(out.glob("part-*.csv")))
    assert told.splitlines()[-1] == (
        f"resnets predict: stopped; {written:,} of 4,000 images are written, in whole shards; the"
        " same command resumes"
    )
    assert 50 <= written < 4000
    assert not list(out.glob(".*.tmp"))


def test_a_folder_opens_as_one_table(digits_run, nested_digits, tmp_path):
    import pandas as pd
    import pyarrow.dataset as ds

    out = tmp_path / "out"
    predict_here(digits_run, nested_digits[0], out, top=1, shard_size=20)
    assert len([*out.glob("part-*.parquet")]) == 3
    table = ds.dataset(out).to_table()
    assert table["path"].to_pylist() == nested_digits[1]
    assert pd.read_parquet(out)["path"].tolist() == nested_digits[1]
    if importlib.util.find_spec("duckdb"):
        duckdb = importlib.import_module("duckdb")
        found = duckdb.sql(f"select path from '{out}/*.parquet' order by path").fetchall()
        assert [row[0] for row in found] == nested_digits[1]


def test_an_output_of_earlier_names_is_resumed(digits_run, nested_digits, tmp_path):
    out = tmp_path / "out"
    predict_here(digits_run, nested_digits[0], out, top=1, shard_size=20)
    before = contents(out)
    for name in ("manifest.json", "summary.json"):
        (out / f"_{name}").rename(out / name)
    assert not predict_here(digits_run, nested_digits[0], out, top=1, shard_size=20).missing
    assert contents(out) == before

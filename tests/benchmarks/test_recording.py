"""--record of benchmarks writes a file of results that is the table that was printed."""

import importlib
import json
import runpy
import subprocess
import sys

import pytest
from paths import ROOT

SCRIPTS = (
    *("airbench", "augment", "busy", "ceilings", "checkpoint", "depth", "detect", "imread"),
    *("inference", "input_pipeline", "install_size", "kernels", "qat", "roofline", "scaling"),
    *("serve", "startup", "train_step"),
)
COLUMNS = ["", "images/s", "ratio"]
ROWS = [["resnets", 1640, "1.00"], ["other", None, "0.50 (0.40 to 0.60)"]]


@pytest.fixture
def recording(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("RESULTS_FOLDER", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return importlib.import_module("recording")


def test_the_printed_table_is_written(recording, monkeypatch, tmp_path, capsys):
    (tmp_path / "set.tar").touch()
    words = ["--data", str(tmp_path / "set.tar"), "--record", "speed", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "speed.py"), *words])
    parser = recording.make_parser("Speed.\n\nMore.")
    parser.add_argument("--data")
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    recording.report(options.record, COLUMNS, iter(ROWS), "torch 2.0")
    table = capsys.readouterr().out
    assert all(recording.result_tables.cell_text(cell) in table for row in ROWS for cell in row)
    fields = json.loads((tmp_path / "speed.json").read_text())
    result = recording.result_tables.Result(**fields)  # refuses what is not complete
    assert (result.columns, result.rows) == (COLUMNS, ROWS)
    assert result.command == "python benchmarks/speed.py --data set.tar --rounds 2"
    assert result.hardware == f"{recording.result_tables.hardware()}; torch 2.0"
    assert result.commit.startswith(recording.result_tables.head_commit())


def test_without_the_option_nothing_is_written(recording, tmp_path):
    recording.report(None, COLUMNS, ROWS)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_a_path_is_refused(recording, capsys):
    with pytest.raises(SystemExit):
        recording.make_parser("").parse_args(["--record", "../speed"])


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["--record=speed", "digits/cifar-resnet20"], "digits/cifar-resnet20"),
        (["--folder=/home/me/images", "1"], "--folder=images 1"),
        (["/home/me/set.tar", "resnets:cifar10/x"], "set.tar resnets:cifar10/x"),
        (["--label", "other jobs"], "--label 'other jobs'"),
    ],
)
def test_a_command_names_no_place_of_this_machine(recording, words, command):
    assert recording.command_line(["x/speed.py", *words]) == f"python benchmarks/speed.py {command}"


def test_variables_are_part_of_the_command(recording, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = recording.command_line(["speed.py"])
    assert command == "OMP_NUM_THREADS=1 python benchmarks/speed.py"


def test_a_commit_says_that_files_differ(monkeypatch, tmp_path):
    tables = runpy.run_path(str(ROOT / "docs" / "result_tables.py"))
    monkeypatch.setitem(tables["code_commit"].__globals__, "DOCS", tmp_path / "docs")
    files = [tmp_path / each for each in ("code.py", "docs/results/speed.json", "docs/page.md")]
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    commit = tables["head_commit"]()
    for file in files[1:]:
        file.write_text("2")
    assert tables["code_commit"]() == commit
    files[0].write_text("2")
    assert tables["code_commit"]() == f"{commit}-changed"


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_benchmark_offers_the_option(recording, monkeypatch, capsys, name):
    script = str(ROOT / "benchmarks" / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(script, run_name="__main__")
    assert "--record NAME" in capsys.readouterr().out

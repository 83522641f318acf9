"""The analyses of `resnets study` from Python: the numbers of the command, as a result."""

import inspect
from pathlib import Path

import pytest
from study_runs import train_on_digits

import resnets
from resnets.cli.main import main
from resnets.utils.files.csv import read_rows

QUICK = ("responses", "landscape", "similarity")
SLOW = ("identity", "unravelled", "shattered", "inference", "effective", "curvature")
OPTIONS = {"landscape": {"steps": 3}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analyses") / "run"
    return resnets.Run(train_on_digits(folder, "cifar-resnet8"))


def stored_tables(folder: Path) -> dict[str, list[list[str]]]:
    tables = {}
    for path in folder.glob("numbers/*.csv"):
        with open(path, encoding="utf-8", newline="") as file:
            tables[path.stem] = [list(row) for row in read_rows(file)]
    return tables


def as_stored(rows: list[dict[str, object]]) -> list[list[str]]:
    texts = [["" if cell is None else str(cell) for cell in row.values()] for row in rows]
    return [[*rows[0]], *texts]


def check_result(result: resnets.study.StudyResult, out: str) -> None:
    """Compare a result with its folder, and with the output of the command."""
    assert result.report.is_file()
    assert result.tables
    assert {name: as_stored(rows) for name, rows in result.tables.items()} == stored_tables(
        result.folder
    )
    assert {f"{path.stem}.svg" for path in result.figures.values()} == {
        path.name for path in result.folder.glob("figures/*.svg")
    }
    assert result.lead in out
    assert repr(result).startswith(f"StudyResult('{result.folder}', tables=[")
    assert "\n" not in repr(result)
    page = result._repr_html_()
    assert page.count("<img ") == len(result.figures) > 0
    assert result.report.name in page


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_an_analysis_gives_what_the_command_writes(run, name, tmp_path, monkeypatch, capsys):
    from resnets.study.analyses import curvature

    monkeypatch.setattr(curvature, "MAX_ITERATIONS", 2)
    theirs = tmp_path / "theirs"
    options = {"examples": 24, "device": "cpu", **OPTIONS.get(name, {})}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    assert main(["study", name, str(run.folder), *words, "--out", str(theirs)]) == 0
    out = capsys.readouterr().out
    result = getattr(resnets.study, name)(run, out=tmp_path / "ours", **options)
    assert stored_tables(theirs) == stored_tables(result.folder)
    check_result(result, out)
    assert result.caution in out


@pytest.mark.ci
def test_gradients_give_what_the_command_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    nets = ["cifar-plain8", "cifar-resnet8"]
    words = ["study", "gradients", ",".join(nets), "--iterations", "10", "--device", "cpu"]
    assert main(words) == 0
    out = capsys.readouterr().out
    result = resnets.study.gradients(nets, iterations=10, device="cpu")
    assert result.folder == Path("runs/study-gradients-2")
    assert stored_tables(Path("runs/study-gradients-1")) == stored_tables(result.folder)
    check_result(result, out)
    row = result.tables["gradient-states"][0]
    assert row["model"] == "cifar-plain8"
    assert row["first / last, start"] > 0


def test_refused_arguments_are_named_as_python_spells_them(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = resnets.study
    for call, message in (
        (lambda: study.responses([]), "name at least one run"),
        (lambda: study.responses(3), "checkpoints=3: must be text, a path"),
        (lambda: study.responses(run, examples=0), "examples=0"),
        (lambda: study.landscape(run, steps=4), "steps=4: give an odd number"),
        (lambda: study.identity([run, run]), "checkpoints: this study is of one model"),
        (lambda: study.curvature("nowhere"), "nowhere"),
        (lambda: study.gradients("cifar-plain8", iterations=9), "iterations=9: too few"),
        (lambda: study.gradients("cifar-plain21"), "did you mean"),
        (lambda: study.gradients(3), "models=3: must be text or a sequence of text"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert isinstance(caught.value, resnets.ResnetsError)
        assert "--" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_every_study_returns_a_study_result():
    for name in resnets.study.__all__:
        value = getattr(resnets.study, name)
        if inspect.isclass(value):
            assert issubclass(value, resnets.study.StudyResult)

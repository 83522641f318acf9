"""The report: one self-contained page, every number traceable, gaps marked, the paper beside."""

import csv
import dataclasses
import json
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
from html_elements import Elements
from study_grid import ITERATIONS, NETS, REASON, trained_grid, with_gaps

from resnets.config import dump_json, to_toml
from resnets.models import catalog
from resnets.recipes import recipe
from resnets.report.render import minus_signs
from resnets.study import paper
from resnets.study.depth.figures import curve_labels, plot_depth_errors, plot_error_curves
from resnets.study.depth.page import write_grid_page
from resnets.study.depth.presets import PRESETS
from resnets.study.depth.summary import ErrorCurves, list_differences
from resnets.study.depth.verdict import judge_degradation
from resnets.study.grid.cells import Grid, read_cells, write_grid


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with its report written."""
    folder = tmp_path_factory.mktemp("study") / "study-depth-1"
    shutil.copytree(trained_grid(tmp_path_factory), folder)
    write_grid_page(folder)
    return folder


@pytest.fixture(scope="session")
def gappy(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same study with a failed, a stopped and a missing run."""
    folder = with_gaps(study, tmp_path_factory.mktemp("gaps") / "study-depth-2")
    write_grid_page(folder)
    return folder


def read_page(folder: Path) -> Elements:
    return Elements((folder / "report.html").read_text(encoding="utf-8"))


def read_csv(folder: Path, name: str) -> list[dict[str, str]]:
    with open(folder / "numbers" / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def metric_rows(folder: Path, run: str, step: int, kind: str) -> list[dict[str, float]]:
    lines = (folder / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if row["step"] == step and row["kind"] == kind]


# --- the depth study --------------------------------------------------------------------------


def test_report_has_all_its_parts(study: Path) -> None:
    page = read_page(study)
    assert dict(page.found)["html"] == {"lang": "en"}
    sections = {each["id"] for each in page.of("section")}
    assert {
        "question",
        "errors-during-training",
        "final-errors",
        "the-networks-compared",
    } < sections
    assert {"protocol", "reproduction", "environment"} < sections
    assert "gaps" not in sections
    assert len(page.of("caption")) == len(page.of("table")) == 5
    assert len(page.of("figcaption")) == len(page.of("figure")) == 3
    for link in page.of("a"):
        target = link["href"]
        assert target[1:] in sections if target.startswith("#") else (study / target).is_file()
    assert (
        minus_signs(judge_degradation(read_cells(study)).statement.partition(". ")[2]) in page.text
    )
    for words in ("SGD", f"{ITERATIONS} iterations", "batch size 16", "padded by 1 px", "numpy"):
        assert words in page.text
    assert f"--models {','.join(NETS)} --seeds 2 --budget {ITERATIONS}it" in page.text
    assert "Paper" not in page.text


def test_every_error_of_the_table_is_the_mean_of_rows_it_names(study: Path) -> None:
    shown = read_page(study).text
    rows = read_csv(study, "errors")
    assert [row["model"] for row in rows] == list(NETS)
    for row in rows:
        for kind in ("training", "test"):
            for which in ("last", "best"):
                name = f"{kind} {which}"
                places = [place.rsplit("@", 1) for place in row[f"{name} run folder@step"].split()]
                assert len(places) == 2
                found = [
                    metric_rows(study, run, int(step), kind.replace("training", "train"))
                    for run, step in places
                ]
                assert all(len(each) == 1 for each in found)
                errors = [each[0]["top1_error"] for each in found]
                mean, spread = statistics.fmean(errors), statistics.stdev(errors)
                assert float(row[f"{name} mean"]) == pytest.approx(mean)
                assert float(row[f"{name} standard deviation"]) == pytest.approx(spread)
                assert f"{mean:.2f} ± {spread:.2f}" in shown


def test_balanced_error_and_macro_f1_are_shown_with_the_error(study: Path) -> None:
    for row in read_csv(study, "class-metrics"):
        last = [each.last("test") for each in read_cells(study) if each.model == row["model"]]
        for title, key in (("balanced error", "balanced_error"), ("macro F1", "macro_f1")):
            values = [each[key] for each in last if each is not None]
            mean, spread = statistics.fmean(values), statistics.stdev(values)
            assert row[f"test {title}"] == f"{mean:.2f} ± {spread:.2f}"


def test_column_names_are_lower_case(study: Path, gappy: Path) -> None:
    """They are also the headings of the page."""
    for path in [*(study / "numbers").iterdir(), *(gappy / "numbers").iterdir()]:
        columns = path.read_text(encoding="utf-8").splitlines()[0].split(",")
        assert not [name for name in columns if name[:1].isupper()], path.name


def test_last_is_the_last_row_and_best_the_lowest(study: Path) -> None:
    for row in read_csv(study, "runs"):
        lines = (study / row["run folder"] / "metrics.jsonl").read_text().splitlines()
        errors = [r["top1_error"] for r in map(json.loads, lines) if r["kind"] == "test"]
        assert float(row["test last"]) == errors[-1]
        assert float(row["test best"]) == min(errors)


def test_curves_are_drawn_from_the_rows_of_all_runs(study: Path) -> None:
    drawn = read_csv(study, "error-curves")
    for row in drawn:
        (found,) = metric_rows(study, row["run folder"], int(row["step"]), row["kind"])
        assert float(row["top1_error"]) == found["top1_error"]
    assert len({row["run folder"] for row in drawn}) == 8


def test_gaps_are_marked_with_their_reason_and_excluded_from_means(gappy: Path) -> None:
    page = read_page(gappy)
    assert "3 of 9 runs did not finish (1 failed, 1 unfinished, 1 not started)" in page.text
    gaps = {(row["model"], row["seed"]): row for row in read_csv(gappy, "gaps")}
    assert gaps["cifar-plain14", "1"]["reason"] == REASON
    assert REASON in page.text
    assert gaps["cifar-resnet20", "0"]["last step"] == ""
    assert 0 < int(gaps["cifar-resnet14", "1"]["last step"]) < ITERATIONS
    errors = {row["model"]: row for row in read_csv(gappy, "errors")}
    assert errors["cifar-plain14"]["seeds finished"] == "1"
    assert errors["cifar-plain14"]["training last standard deviation"] == ""
    assert errors["cifar-resnet20"]["test last mean"] == ""
    assert "seed1" not in errors["cifar-resnet14"]["test last run folder@step"]
    assert "did not finish" in page.text


def test_a_study_of_which_nothing_has_run_still_has_a_report(tmp_path: Path) -> None:
    grid = Grid(models=NETS, seeds=(1,) * 4, data="digits", recipe="digits", budget="50it")
    write_grid(grid, tmp_path)
    write_grid_page(tmp_path)
    assert "4 of 4 runs did not finish (4 not started)" in read_page(tmp_path).text


def test_a_presets_study_is_repeated_by_its_name(tmp_path: Path) -> None:
    write_grid(PRESETS["paper-imagenet"](), tmp_path)
    write_grid_page(tmp_path)
    assert "resnets study depth --preset paper-imagenet\n" in read_page(tmp_path).text


def write_run(folder: Path, net: str, seed: int, source: str, error: float) -> None:
    """A finished run folder, as a run leaves it, without the training."""
    folder.mkdir(parents=True)
    made = dataclasses.replace(recipe("cifar10-paper", net), seed=seed)
    text = to_toml(made).replace('source = "cifar10"', f'source = "{source}"')
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    rows = [
        {"kind": kind, "step": step, "epoch": step / 391, "loss": 1.0, "top1_error": value}
        for step, value in ((1000, 30.0), (64000, error))
        for kind in ("train", "test")
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dump_json({"data": source, "test": {"protocol": "1 view"}}, folder / "result.json")


@pytest.mark.parametrize(("source", "papers"), [("cifar10", True), ("cifar100", False)])
def test_the_numbers_of_the_paper_are_shown_for_its_own_data_only(
    tmp_path: Path, source: str, papers: bool
) -> None:
    nets = ("cifar-plain110", "cifar-resnet20", "cifar-resnet110")
    grid = Grid(models=nets, seeds=(2, 2, 2), data=source, recipe="cifar10-paper", budget="64000it")
    write_grid(grid, tmp_path)
    for net in nets:
        for seed in range(2):
            write_run(tmp_path / "cells" / f"{net}-seed{seed}", net, seed, source, 9.0 + seed)
    write_grid_page(tmp_path)
    page, rows = read_page(tmp_path), read_csv(tmp_path, "errors")
    assert ("paper" in rows[0]) == papers
    assert ("Paper: test error of a single view" in page.text) == papers
    if papers:
        assert [row["paper"] for row in rows] == ["above 60", "8.75", "6.43 (6.61 ± 0.16)"]
    assert "exceptions: schedule.hold_until_error = none for cifar-resnet20." in page.text


# --- its parts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "data"),
    [
        ("cifar10", "cifar10"),
        ("/data/cifar10.tar.xz", "cifar10"),
        ("cifar-10-batches-py", "cifar10"),
        ("cifar100", None),
        ("/data/imagenet/", "imagenet"),
        ("/data/ILSVRC2012", "imagenet"),
        ("imagenette160.tar", None),
        ("digits", None),
    ],
)
def test_the_papers_data_is_known_by_name(source: str, data: str | None) -> None:
    assert paper.find_dataset(source) == data


def test_the_networks_of_the_paper_are_recognized_by_their_spec() -> None:
    renamed = dataclasses.replace(catalog.spec("cifar-resnet20"), name="mine", input_size=28)
    found = paper.find_error(renamed, "cifar10")
    assert found is not None
    assert found.top1 == 8.75
    assert paper.find_error(catalog.spec("cifar-resnet20", shortcut="B"), "cifar10") is None
    assert paper.find_error(catalog.spec("resnet50"), "imagenet") is None  # v1.5 is not the paper's
    assert paper.find_error(catalog.spec("resnet34-c"), "imagenet") == paper.IMAGENET["resnet34-c"]


def test_every_network_with_a_number_of_the_paper_is_in_the_catalog() -> None:
    for errors in paper.ERRORS.values():
        for name in errors:
            assert catalog.spec(name).name == name


def curves(net: str, family: str, depth: int, shortcut: str, end: float = 5.0) -> ErrorCurves:
    return ErrorCurves(
        net, family, depth, shortcut, {100: [90.0], 1000: [end]}, {1000: [end, end + 2]}
    )


def test_panels_share_axes_and_residual_lines_are_bold() -> None:
    nets = [curves("p", "plain", 56, "none", 40.0), curves("r", "residual", 56, "A")]
    figure = plot_error_curves(nets, "test")
    plain, residual = figure.axes
    assert plain.get_ylim() == residual.get_ylim()
    assert plain.get_xlim() == residual.get_xlim() == (0, 1000)
    assert 42 < plain.get_ylim()[1] < 100
    styles = {
        axes: [(line.get_linestyle(), line.get_linewidth()) for line in axes.lines]
        for axes in (plain, residual)
    }
    for (style, thin), (same, bold) in zip(styles[plain], styles[residual], strict=True):
        assert style == same
        assert bold > thin
    assert [style for style, _ in styles[plain]] == ["--", "-"]
    assert plain.lines[0].get_color() == residual.lines[0].get_color()


def test_every_seed_lies_within_the_axes_of_the_depth_figure() -> None:
    nets = [curves("p", "plain", 20, "none", 9.0), curves("q", "plain", 56, "none", 70.0)]
    training, held_out = plot_depth_errors(nets, "test").axes
    for axes, largest in ((training, 70), (held_out, 72)):
        (low, high), drawn = (
            axes.get_ylim(),
            np.concatenate([line.get_ydata() for line in axes.lines]),
        )
        assert low == 0
        assert max(drawn) == pytest.approx(largest, abs=1)
        assert high > 72


def test_labels_tell_networks_of_one_depth_apart() -> None:
    twins = [curves("p", "plain", 34, "none"), curves("r", "residual", 34, "A")]
    assert set(curve_labels(twins).values()) == {"34 layers"}
    options = [*twins, curves("s", "residual", 34, "B")]
    assert curve_labels(options) == {"p": "34 layers", "r": "34 layers, A", "s": "34 layers, B"}
    versions = [curves("v1", "residual", 50, "B"), curves("v1.5", "residual", 50, "B")]
    assert curve_labels(versions) == {"v1": "v1", "v1.5": "v1.5"}


def test_differences_name_field_value_and_networks() -> None:
    first, second = (
        recipe("cifar10-paper", "cifar-resnet20"),
        recipe("cifar10-paper", "cifar-plain20"),
    )
    assert list_differences({"a": first, "b": second}) == []
    other = recipe("cifar10-paper", "cifar-resnet110")
    assert list_differences({"a": first, "b": other, "c": other}) == [
        "schedule.hold_until_error = 80.0 for b, c"
    ]

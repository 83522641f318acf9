"""`resnets study forms`: Tables 1 to 3 of He et al. (ECCV 2016) beside a grid's own errors."""

import csv
import dataclasses
from pathlib import Path

import pytest
from html_elements import Elements
from synthetic_study import write_runs

from resnets.models import build, cost
from resnets.study import paper
from resnets.study.depth.identity_mappings import form_name, forms_grid, read_forms
from resnets.study.depth.page import write_grid_page
from resnets.study.depth.summary import summarize
from resnets.study.grid.cells import cell_recipe, read_cells
from resnets.study.grid.model_names import model_spec

BASES = ("cifar-resnet8", "cifar-resnet14")


def grid():
    return dataclasses.replace(forms_grid(models=BASES), iterations=100, epoch=10)


def error(model: str, seed: int) -> float | None:
    """The paper's errors, as far as it has them; the dropout diverges."""
    for form in (*paper.SHORTCUT_FORMS, *paper.ORDER_FORMS):
        if model == form_name(BASES[0], form):
            if "dropout" in form.case:
                return None
            return (form.errors[110] or 50.0) + 0.1 * seed
    return 3.0


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("forms") / "study", grid(), error)


def test_every_row_of_the_tables_is_a_network_that_builds() -> None:
    found = grid()
    rows = len(paper.SHORTCUT_FORMS) + len(paper.ORDER_FORMS) - 1  # "original" is in both
    assert len(found.models) == rows + 2
    assert found.seeds == (2,) * len(found.models)
    specs = {}
    for model in found.models:
        spec = cell_recipe(found, model, 0).model
        specs[dataclasses.replace(spec, name="")] = model
        assert cost.count_cost(build(spec)).parameters > 0
    assert len(specs) == len(found.models)  # no two rows are the same network
    assert not model_spec("cifar-resnet8:none").residual
    assert form_name("cifar-resnet164", paper.ORDER_FORMS[-1]).endswith("preact-bottleneck")


def test_other_data_have_the_papers_recipe() -> None:
    found = forms_grid(models=BASES, data="cifar10")
    assert (found.recipe, found.budget, found.settings) == ("cifar10-paper", "64000it", ())


def test_rows_show_the_numbers_of_the_paper(study: Path) -> None:
    forms = read_forms(grid(), summarize(read_cells(study)))
    same, count = forms.agreement["Table 2"]
    assert same == count == 10
    same, count = forms.agreement["Table 1"]
    assert same == count
    # 7 rows with a number and 4 that the paper calls failed, which do not compare with each other.
    assert count == 7 * 6 // 2 + 7 * 4
    assert [row.failed for row in forms.shortcuts] == [False] * 10 + [True]  # here dropout diverged
    assert forms.shortcuts[0].train == pytest.approx(6.66)
    assert forms.shortcuts[-1].train is None
    assert set(forms.depths) == {8, 14}


def test_page_has_the_tables(study: Path) -> None:
    report = write_grid_page(study)
    assert "9 of the 9 other shortcuts train worse" in report.lead
    assert "failed: dropout 0.5" in report.lead
    with open(study / "numbers" / "forms-orders.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["paper, 164 layers"] for row in rows] == ["5.93", "6.5", "6.14", "5.91", "5.46"]
    text = Elements(report.report.read_text(encoding="utf-8")).text
    assert "resnets study forms" in text
    assert "--models cifar-resnet8,cifar-resnet14" in text
    for name in ("forms", "orders-after", "orders-before"):
        assert (study / "figures" / f"{name}.svg").is_file()

"""`resnets info`: counts, tables, drawings and errors, as a user meets them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from resnets.cli.main import main
from resnets.models import build, catalog, cost
from resnets.models.cost import shapes_only
from resnets.study.paper import COSTS


@pytest.fixture(autouse=True)
def _narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["info", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def table(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["info", *words]) == 0
    return capsys.readouterr().out


# PAPER's Table 6 and exact counts of option A; torchvision's count of resnet50.
EXACT = {
    "cifar-resnet20": 269_722,
    "cifar-resnet110": 1_727_962,
    "cifar-resnet1202": 19_421_274,
    "resnet50": 25_557_032,
}


def test_json_gives_exact_counts_and_layers_that_add_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nets = as_json(capsys, *EXACT)
    assert {net["name"]: net["parameters"] for net in nets} == EXACT
    for net in nets:
        assert set(net) == {"name", "parameters", "multiply_adds", "input_size", "layers"}
        for key in ("parameters", "multiply_adds"):
            assert sum(layer[key] for layer in net["layers"]) == net[key]
    first = nets[0]["layers"][0]
    assert first == {
        "name": "stem.conv",
        "kind": "conv 3x3",
        "output_shape": [16, 32, 32],
        "parameters": 432,
        "multiply_adds": 442_368,
    }


def test_devices_and_the_precisions_they_compute_in(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "--devices")
    cpu = next(row for row in found["devices"] if row["device"] == "cpu")
    assert {"float32", "float16", "bfloat16"} == set(cpu["precisions"])
    assert cpu["auto"] in cpu["precisions"]
    assert "cpu: " in table(capsys, "--devices")


def test_size_and_classes(capsys: pytest.CaptureFixture[str]) -> None:
    (full,) = as_json(capsys, "resnet18")
    (changed,) = as_json(capsys, "resnet18", "--size", "112", "--classes", "10")
    assert changed["input_size"] == 112
    assert changed["layers"][0]["output_shape"] == [64, 56, 56]
    assert changed["layers"][-1]["output_shape"] == [10]
    assert full["parameters"] - changed["parameters"] == 990 * 513
    assert 0.2 < changed["multiply_adds"] / full["multiply_adds"] < 0.3


def test_shapes_only_changes_no_count() -> None:
    """What `info` skips to be fast is neither counted nor needed for the shapes."""
    for name in ("resnet18-a", "preact-resnet18", "vgg11-bn", "cifar-resnet20"):
        real = cost.count_cost(build(catalog.spec(name)))
        with shapes_only():
            assert cost.count_cost(build(catalog.spec(name))) == real


def test_paper_column_agrees_with_what_is_counted() -> None:
    for name, paper in COSTS.items():
        with shapes_only():
            counted = cost.count_cost(build(catalog.spec(name)))
        if paper.parameters:
            rounding = 0.5 * 10.0 ** -len(paper.parameters.rstrip("M").split(".")[1])
            assert abs(counted.parameters / 1e6 - float(paper.parameters[:-1])) <= rounding
        if paper.multiply_adds:
            share = counted.multiply_adds / 1e9 / float(paper.multiply_adds[:-1])
            assert 0.98 < share < 1.02, name


def summed_parameters(text: str) -> int:
    """Sum of the parameters column over the lines that stand for layers or blocks of the net."""
    lines = text.splitlines()
    head = next(line for line in lines if line.startswith("layer "))
    end = head.index("parameters") + len("parameters")
    body = lines[lines.index(head) + 2 : next(i for i, s in enumerate(lines) if s.startswith("×"))]
    # Layers inside a block are indented; the block's own line has their sum already.
    cells = [line[end - 11 : end].strip() for line in body if line and not line.startswith(" ")]
    return sum(int(cell.replace(",", "")) for cell in cells if cell)


@pytest.mark.parametrize("name", ["resnet34", "resnet50-v1", "vgg16-bn", "cifar-resnet1202"])
def test_rows_of_the_table_add_up_within_80_columns(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = table(capsys, name)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    with shapes_only():
        counted = cost.count_cost(build(catalog.spec(name)))
    assert summed_parameters(text) == counted.parameters
    assert f"{counted.parameters:,}" in text.split("total", 1)[1]
    assert f"{counted.multiply_adds:,}" in text.split("total", 1)[1]


def test_equal_blocks_are_folded_unless_all(capsys: pytest.CaptureFixture[str]) -> None:
    folded, full = table(capsys, "resnet34"), table(capsys, "resnet34", "--all")
    assert "stage3.1-5  × 5" in folded
    assert folded.count("shortcut.conv") == 3
    assert "× 5" not in full
    assert re.search(r"^stage3\.4 +basic block", full, re.MULTILINE)
    assert full.count("conv 3x3") == 32


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("resnet34", "24.52 / 7.46"),
        ("resnet50", "paper, resnet50-v1"),
        ("cifar-resnet110", "6.43"),
    ],
)
def test_the_numbers_of_the_paper_are_shown(
    name: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown in table(capsys, name).split("total", 1)[1]
    assert shown not in table(capsys, name, "--classes", "7")


def test_without_a_model_the_catalog_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    text = table(capsys)
    listed = [line.split()[0] for line in text.partition("\nAlso:")[0].splitlines()[2:] if line]
    assert [name for name in listed if name] == catalog.list_models()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_diagram_and_json_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.svg"
    assert main(["info", "resnet18", "plain18", "--diagram", str(path), "--json"]) == 0
    printed = capsys.readouterr()
    assert [net["name"] for net in json.loads(printed.out)] == ["resnet18", "plain18"]
    assert str(path) in printed.err
    assert "18-layer plain" in path.read_text()


def test_diagram_of_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.svg"
    assert main(["info", "block:basic", "block:preact-bottleneck", "--diagram", str(path)]) == 0
    assert "pre-activation bottleneck block" in path.read_text()
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resnet43"], "did you mean"),
        (["resnet18", "resnet43", "--diagram", "out.svg"], "did you mean"),
        (["resnet18", "--size", "0"], "--size 0"),
        (["vgg16", "--size", "16"], "less than the 32 px"),
        (["resnet18", "--classes", "0"], "num_classes"),
        (["resnet18", "--diagram", "out.png"], "ends in .svg"),
        (["resnet18", "--diagram", "missing/out.svg"], "no folder"),
        (["--diagram", "out.svg"], "models or blocks"),
        (["block:basic"], "--diagram"),
        (["block:basic", "--diagram", "out.svg", "--json"], "--diagram"),
        (["block:basic", "resnet18", "--diagram", "out.svg"], "separate files"),
        (["block:basics", "--diagram", "out.svg"], "did you mean basic"),
    ],
)
def test_bad_usage_is_one_line_and_writes_nothing(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["info", *words]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert not printed.out
    assert not list(tmp_path.iterdir())

"""Diagrams show what the modules are: boxes, curves and words are checked against the models."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from resnets.config import ConfigError
from resnets.diagrams.block import read_flow
from resnets.diagrams.draw import block_diagram, model_diagram, save_diagram
from resnets.diagrams.trace import abbreviate_number, fold, read_column
from resnets.models import ImageClassifier, build, catalog
from resnets.models.cost import shapes_only
from resnets.models.resnet import BLOCKS

SVG = "{http://www.w3.org/2000/svg}"


def sketch(name: str, **overrides: object) -> ImageClassifier:
    with shapes_only():
        return build(catalog.spec(name, **overrides))


def draw(*names: str, size: int | None = None) -> ET.Element:
    return ET.fromstring(model_diagram([sketch(name) for name in names], size))


def groups(root: ET.Element, kind: str) -> list[ET.Element]:
    return [group for group in root.iter(f"{SVG}g") if group.get("class", "").startswith(kind)]


def words(root: ET.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


def counts(column: ET.Element) -> dict[str, int]:
    kinds = ("layer conv", "layer fc", "layer pool", "shortcut same", "shortcut widening")
    return {kind: len(groups(column, kind)) for kind in kinds}


def test_fig3_has_the_papers_boxes_and_curves() -> None:
    vgg, plain, residual = groups(draw("vgg19", "plain34", "resnet34-a"), "model")
    assert list(counts(vgg).values()) == [16, 3, 5, 0, 0]
    assert list(counts(plain).values()) == [33, 1, 2, 0, 0]
    assert list(counts(residual).values()) == [33, 1, 2, 13, 3]
    assert [words(column)[0] for column in (vgg, plain, residual)] == [
        "VGG-19",
        "34-layer plain",
        "34-layer residual",
    ]
    # The plain model is its residual counterpart without shortcuts: equal boxes in equal order.
    assert words(plain)[4:] == [word for word in words(residual)[4:] if word != "zero pad"]


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet18-c", "resnet50-v1", "preact-resnet50", "cifar-resnet20"]
)
def test_dotted_curves_are_the_blocks_whose_output_has_another_shape(name: str) -> None:
    model = sketch(name)
    drawn = [unit.shortcut.widens for unit in read_column(model).units if unit.shortcut]
    changes: list[bool] = []

    def record(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        changes.append(inputs[0].shape != output.shape)

    for block in model.blocks().values():
        block.register_forward_hook(record)
    with shapes_only():
        model(torch.empty(1, 3, model.spec.input_size, model.spec.input_size))
    assert drawn == changes
    column = counts(draw(name))
    assert column["shortcut widening"] == sum(changes)
    assert column["shortcut same"] == len(changes) - sum(changes)


def test_words_come_from_the_convolutions() -> None:
    texts = words(draw("resnext50_32x4d"))
    assert "7x7 conv, 64, /2" in texts
    assert "3x3 conv, 256, /2, 32 groups" in texts
    assert texts.count("1x1 conv") == 4  # one projection a stage
    assert "7x7 conv, 64, /2" not in words(draw("cifar-resnet20"))
    assert "image, 64 × 64" in words(draw("resnet18", size=64))


def test_rows_of_one_size_start_at_one_height() -> None:
    tops = []
    for column in groups(draw("vgg19", "plain34", "resnet34"), "model"):
        boxes = [group.find(f"{SVG}rect") for group in groups(column, "layer")]
        tops.append([float(box.get("y", "")) for box in boxes if box is not None])
        assert tops[-1] == sorted(set(tops[-1]))  # always downwards, nothing on top of another
    vgg, plain, residual = tops
    assert plain == residual
    assert vgg[5] == plain[1]  # the pool to 56 px, with which both begin that row
    assert vgg[2] == plain[0]  # 112 px: VGG's first pool, the 7x7 convolution


def test_a_pool_that_enlarges_does_not_turn_the_drawing_upwards() -> None:
    """VGG on 32 px pools 1 px up to 7 px before its linear layers; the drawing still goes down."""
    boxes = list(read_column(sketch("vgg11", input_size=32)).boxes)
    sizes = [box.size for box in boxes]
    assert sizes == sorted(sizes, reverse=True)
    assert [box.text for box in boxes][-4:] == ["avg pool", "fc 4096", "fc 4096", "fc 1000"]


@pytest.mark.parametrize(
    ("name", "layers"), [("cifar-resnet110", 110), ("cifar-resnet1202", 1202), ("resnet152", 152)]
)
def test_deep_models_are_folded_and_lose_no_layer(name: str, layers: int) -> None:
    column = fold(read_column(sketch(name)))
    assert column.total("conv", "fc") == layers
    root = draw(name)
    drawn = counts(root)
    assert drawn["layer conv"] < 30
    braces = [text for text in words(root) if text.startswith("× ") and text != "× n"]
    assert braces == [f"× {unit.count}" for unit in column.units if unit.count > 1]


def test_a_figure_folds_all_its_models_or_none() -> None:
    assert not groups(draw("cifar-resnet56"), "fold")
    shallow, deep = groups(draw("cifar-resnet20", "cifar-resnet110"), "model")
    assert [text for text in words(shallow) if "×" in text][1:] == ["× 3", "× 2", "× 2"]
    assert [text for text in words(deep) if "×" in text][1:] == ["× 18", "× 17", "× 17"]


@pytest.mark.parametrize(
    "names", [("resnet50", "preact-resnet50"), ("cifar-plain110", "resnet18-c")]
)
def test_everything_lies_on_the_card(names: tuple[str, ...]) -> None:
    root = draw(*names)
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    for box in root.iter(f"{SVG}rect"):
        x, y = float(box.get("x", "")), float(box.get("y", ""))
        assert x >= 0
        assert x + float(box.get("width", "")) <= width
        assert y + float(box.get("height", "")) <= height
    for text in root.iter(f"{SVG}text"):
        assert 0 < float(text.get("x", "")) < width
        assert 0 < float(text.get("y", "")) < height


def test_drawing_names_and_describes_itself() -> None:
    root = draw("plain34", "resnet34")
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title") == "34-layer plain | 34-layer residual"
    described = root.findtext(f"{SVG}desc") or ""
    assert "34-layer residual: 33 convolutions, 2 pools, 1 fully connected" in described
    assert "16 shortcuts, 3 of which increase dimensions" in described
    tooltips = [group.findtext(f"{SVG}title") for group in groups(root, "layer conv")]
    assert "stem.conv: conv 7x7, stride 2, output 64 × 112 × 112, 9,408 parameters" in str(tooltips)


def test_block_drawings_follow_the_blocks_own_data_flow() -> None:
    def chain(kind: str) -> list[str]:
        root = ET.fromstring(block_diagram([kind]))
        return [word for word in words(root) if "conv" in word or word in ("relu", "batch norm")]

    conv = "3x3 conv, 64"
    assert chain("basic") == [conv, "batch norm", "relu", conv, "batch norm", "relu"]
    assert chain("preact-basic") == ["batch norm", "relu", conv, "batch norm", "relu", conv]
    bottleneck = ["1x1 conv, 64", "3x3 conv, 64", "1x1 conv, 256"]
    assert [word for word in chain("bottleneck") if "conv" in word] == bottleneck
    assert chain("preact-bottleneck")[:3] == ["batch norm", "relu", "1x1 conv, 64"]


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_block_has_one_identity_curve(kind: str) -> None:
    root = ET.fromstring(block_diagram([kind]))
    assert len(groups(root, "shortcut")) == 1
    assert words(root).count("identity") == 1
    assert f"{256 if 'bottleneck' in kind else 64}-d" in words(root)


def test_flow_of_blocks_with_projections() -> None:
    basic = read_flow(sketch("resnet18").get_submodule("stage2.0"), "basic")
    assert [op.text for op in basic.shortcut] == ["1x1 conv, 128, /2", "batch norm"]
    assert [op.text for op in basic.after] == ["relu"]
    assert not basic.shared
    preact = read_flow(sketch("preact-resnet18").get_submodule("stage2.0"), "preact")
    assert [op.text for op in preact.shared] == ["batch norm", "relu"]
    assert [op.text for op in preact.shortcut] == ["1x1 conv, 128, /2"]
    assert not preact.after


class DataDependent(nn.Module):
    """A block whose forward asks for values, which a tracer cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x if x.sum() > 0 else x


@pytest.mark.parametrize("block", [DataDependent(), nn.Sequential(nn.Conv2d(3, 3, 1))])
def test_blocks_that_cannot_be_drawn_are_an_error_of_one_line(block: nn.Module) -> None:
    with pytest.raises(ConfigError, match="mine"):
        read_flow(block, "mine")


def test_unknown_block() -> None:
    with pytest.raises(ConfigError, match="did you mean bottleneck"):
        block_diagram(["bottlenek"])


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (9408, "9408"), (269_722, "0.27M"), (21_797_672, "21.8M"), (999_900_000, "1000M")],
)
def test_short_numbers(number: int, text: str) -> None:
    assert abbreviate_number(number) == text


def test_saving_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.svg"
    save_diagram("<svg/>", path)
    save_diagram("<svg>2</svg>", str(path))
    assert path.read_text() == "<svg>2</svg>"
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(OSError, match="directory"):
        save_diagram("<svg/>", tmp_path / "folder.svg")
    with pytest.raises(ConfigError, match="SVG only"):
        save_diagram("<svg/>", tmp_path / "out.png")
    with pytest.raises(ConfigError, match="no folder"):
        save_diagram("<svg/>", tmp_path / "missing" / "out.svg")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder.svg", "out.svg"]

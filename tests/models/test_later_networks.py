"""ResNet-D, SE, ECA, ResNet-RS, BiT and ResNeXt, tiny: trained, counted, drawn and exported.

What they compute is held against timm's own in tests/weights/test_timm.py.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from weights_state import make_run

from resnets.cli.main import main
from resnets.config import ConfigError, ModelSpec, Preprocess
from resnets.detect.models.layers import stage_strides
from resnets.diagrams.block import read_flow
from resnets.diagrams.networks import draw_models
from resnets.diagrams.trace import read_column
from resnets.models import build, catalog, cost
from resnets.models.norm import use_cpu_kernels

TINY: dict[str, Any] = {
    "depths": (1, 2),
    "widths": (16, 32),
    "stem_width": 16,
    "norm_groups": 8,
    "num_classes": 3,
    "input_size": 32,
}
FAMILIES = {
    "resnet50d": "avg pool",
    "resnet18d": "avg pool",
    "seresnet50": "squeeze and excitation",
    "ecaresnet26t": "channel attention",
    "resnetrs50": "squeeze and excitation",
    "resnetv2_50x1_bit": "relu",
    "resnext101_32x8d": "groups",
}


def tiny(name: str) -> ModelSpec:
    return catalog.spec(name, **TINY)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_with_the_cpu_kernels_is_that_without(name: str) -> None:
    images = torch.randn(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    gradients = []
    for kernels in (False, True):
        torch.manual_seed(1)
        model = build(tiny(name)).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        if kernels:
            use_cpu_kernels(model)
        nn.functional.cross_entropy(model(images), torch.arange(8) % 3).backward()
        found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert len(found) == len(list(model.parameters()))
        assert all(gradient.abs().max() > 0 for gradient in found)
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))
    one, other = gradients
    assert (one - other).norm() < 0.02 * one.norm()  # a relu at its kink decides otherwise


@pytest.mark.parametrize("name", FAMILIES)
def test_cost_and_drawings(name: str) -> None:
    model = build(tiny(name))
    counted = cost.count_cost(model)
    named = dict(model.named_modules())
    assert sum(layer.parameters for layer in counted.layers) == counted.parameters
    assert all(
        layer.multiply_adds > 0
        for layer in counted.layers
        if isinstance(named[layer.name], nn.Conv1d | nn.Conv2d)
    )
    column = read_column(model)
    blocks = [unit for unit in column.units if unit.shortcut is not None]
    layers = model.spec.layers_per_block
    assert [len(unit.boxes) for unit in blocks] == [layers] * 3  # none of them is attention
    draw_models([column])
    flow = read_flow(model.blocks()["stage2.0"], "block")
    words = [op.text for op in (*flow.branch, *flow.shortcut, *flow.after)]
    said = [*words, *(unit.shortcut.label for unit in blocks if unit.shortcut)]
    assert any(FAMILIES[name] in text for text in said), said


@pytest.mark.parametrize(
    ("name", "kind", "package"),
    [
        pytest.param("resnetrs50", "onnx", "onnxruntime", marks=pytest.mark.ci),
        *(
            pytest.param(name, kind, package, marks=pytest.mark.slow)
            for name in FAMILIES
            for kind, package in (("onnx", "onnxruntime"), ("openvino", "openvino"))
            if (name, kind) != ("resnetrs50", "onnx")
        ),
    ],
)
def test_export(tmp_path: Path, name: str, kind: str, package: str) -> None:
    """Export compares the outputs itself."""
    pytest.importorskip(package)
    run = make_run(tmp_path / "run", tiny(name), Preprocess(size=32, resize=32))
    out = tmp_path / f"net.{'onnx' if kind == 'onnx' else 'xml'}"
    assert main(["export", str(run), "--to", kind, "--out", str(out)]) == 0
    assert out.is_file()


@pytest.mark.parametrize("name", FAMILIES)
def test_stages_have_their_strides(name: str) -> None:
    model = build(tiny(name)).eval()
    with torch.inference_mode():
        found = model.stages(torch.randn(1, 3, 64, 64))
    assert {key: 64 // maps.shape[-1] for key, maps in found.items()} == stage_strides(model.spec)


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("resnet34-a", {"shortcut_pool": "average"}, "shortcut_pool"),
        ("resnet50", {"stem_norm": False}, "stem_norm"),
        ("vgg11", {"attention": "se"}, "attention"),
        ("resnet50d", {"stem_width": 4}, "stem_width"),
        ("seresnet50", {"se_reduction": 0}, "se_reduction"),
    ],
)
def test_contradicting_fields_are_refused(name: str, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        build(catalog.spec(name, **changes))


def test_a_branch_that_starts_at_zero_passes_its_input() -> None:
    model = build(catalog.spec("seresnet50", **TINY, zero_init_residual=True))
    block = model.blocks()["stage2.1"].eval()
    x = torch.rand(1, 128, 4, 4)
    assert torch.equal(block(x), x)

"""Quantization-aware training: rounding in the forward pass, equal channels, and recipe qat."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from checkpoint_files import save_checkpoint
from small_models import PREACT, RESIDUAL, small_net
from torch.nn import functional as F

from resnets.api.recipe import choose_recipe
from resnets.cli.main import main
from resnets.config import ConfigError, FinetuneSpec, Recipe
from resnets.train.tasks.quantize import (
    FakeQuantize,
    equalize_channels,
    quantize_inputs,
    quantize_weight,
)
from resnets.weights.checkpoint.format import read_checkpoint
from resnets.weights.load import load_classifier

UNIT = "stage1.0"
BOTTLENECK = dataclasses.replace(RESIDUAL, block="bottleneck")


def test_inputs_have_256_levels_of_which_one_is_zero():
    x = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.no_grad():
        x[0, 0] = 0
    y = quantize_inputs(x)
    step = (x.max() - x.min()) / 255
    assert len(y.unique()) <= 256
    assert (y[0, 0] == 0).all()
    assert (y - x).abs().max() <= step * 0.51
    y.sum().backward()
    assert (x.grad == 1).float().mean() > 0.99  # all but one that rounds out of range


def test_weights_have_one_scale_per_output_channel():
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[1] *= 1000
    levels = quantize_weight(weight) / (weight.flatten(1).abs().amax(1) / 127)[:, None, None, None]
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    assert levels.abs().amax((1, 2, 3)).round().tolist() == [127] * 5
    torch.testing.assert_close(quantize_weight(-3 * weight), -3 * quantize_weight(weight))


def test_layers_are_quantized_within_the_context_only():
    model = small_net(RESIDUAL).eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    conv = model.get_submodule(UNIT).conv1
    y = torch.randn(2, conv.in_channels, 8, 8)
    with torch.no_grad():
        before = model(x)
        with FakeQuantize():
            rounded, inside = model(x), conv(y)
        weight = quantize_weight(conv.weight)
        expected = F.conv2d(quantize_inputs(y), weight, None, conv.stride, conv.padding)
        torch.testing.assert_close(inside, expected)
        assert not torch.equal(rounded, before)
        torch.testing.assert_close(model(x), before)


@pytest.mark.parametrize("spec", [RESIDUAL, BOTTLENECK, PREACT])
def test_equal_channels_compute_the_same_function(spec):
    model = small_net(spec).eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    unit = model.get_submodule(UNIT)
    norm, conv = (unit.norm2, unit.conv2) if spec is PREACT else (unit.norm1, unit.conv2)
    with torch.no_grad():
        norm.weight[0] *= 100
        norm.bias[0] *= 100
        conv.weight[:, 0] /= 100
        before = model(x)
        equalize_channels(model)
        torch.testing.assert_close(model(x), before, atol=1e-4, rtol=1e-3)
    ratios = (norm.bias.abs() + 3 * norm.weight.abs()) / conv.weight.abs().amax((0, 2, 3))
    torch.testing.assert_close(ratios, torch.full_like(ratios, ratios[0].item()))


def test_what_it_excludes_is_refused():
    for field, value in (("precision", "bfloat16"), ("compile", "on"), ("task", "segment")):
        fields = {"precision": "float32", "finetune": FinetuneSpec(quantize=True), field: value}
        with pytest.raises(ConfigError, match=field):
            Recipe(**fields)


def test_recipe_takes_what_it_does_not_decide_from_the_run(digits_run, capsys):
    run = load_classifier(str(digits_run)).recipe
    recipe = choose_recipe("qat", fields={"weights": str(digits_run)})
    assert (recipe.model, recipe.data, recipe.weights) == (run.model, run.data, str(digits_run))
    assert recipe.optim.lr == pytest.approx(run.optim.lr / 10)
    assert recipe.finetune.quantize
    assert main(["train", "digits", str(digits_run)]) == 2
    assert "qat" in capsys.readouterr().err


@pytest.mark.slow
def test_a_network_that_fails_in_int8_passes_after_it(digits_run, tmp_path, capsys):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    wide = tmp_path / "wide"
    shutil.copytree(digits_run, wide)
    (checkpoint,) = (wide / "checkpoints").glob("*.safetensors")
    rescale(checkpoint)
    export = ["--to", "tensorrt", "--int8", "--calibrate", "digits", "--out"]
    assert main(["export", str(wide), *export, str(tmp_path / "wide.onnx")]) == 3
    tuned = tmp_path / "tuned"
    words = ["train", "qat", str(wide), "--iterations", "60", "--out", str(tuned)]
    assert main(words) == 0
    assert main(["export", str(tuned), *export, str(tmp_path / "tuned.onnx")]) == 0
    manifest = json.loads((tmp_path / "tuned.onnx.json").read_text())
    assert manifest["errors"]["top1_error_after"] < 10


def rescale(checkpoint: Path) -> None:
    """Scale a channel of the stored weights, and the weights that read it by the inverse."""
    stored = read_checkpoint(checkpoint)
    tensors = {f"model/{name}": tensor.clone() for name, tensor in stored.group("model").items()}
    tensors[f"model/{UNIT}.norm1.weight"][0] *= 200
    tensors[f"model/{UNIT}.norm1.bias"][0] *= 200
    tensors[f"model/{UNIT}.conv2.weight"][:, 0] /= 200
    save_checkpoint(checkpoint, tensors, dict(stored.meta))

"""Grad-CAM against an independent computation with hooks, and the figures made of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import CLASSES, PREACT, RESIDUAL, VGG, small_net, write_images
from torch.nn import functional as F

from resnets.config import ModelSpec
from resnets.evaluate.figures.fonts import TextRenderer
from resnets.evaluate.figures.grad_cam import PANEL, cam_stage, explain, grad_cam
from resnets.evaluate.figures.image_grid import FONT_SIZE, wrap_text
from resnets.models import ImageClassifier, build
from resnets.models.catalog import spec


def with_hooks(
    net: ImageClassifier, image: torch.Tensor, target: int, stage: str = ""
) -> np.ndarray:
    """Selvaraju et al. 2017, eqs. 1 and 2, for one image (1, C, H, W), in numpy."""
    kept = {}
    last = net.get_submodule(stage or net.stage_names[-1])
    handle = last.register_forward_hook(lambda *args: kept.update(maps=args[2]))
    logits = net(image)
    handle.remove()
    kept["maps"].retain_grad()
    logits[0, target].backward()
    maps, gradient = kept["maps"].detach()[0].numpy(), kept["maps"].grad[0].numpy()
    total = np.zeros(maps.shape[1:])
    for channel in range(len(maps)):
        total += gradient[channel].mean() * maps[channel]
    total = np.maximum(total, 0)
    total = torch.from_numpy(total / total.max() if total.max() > 0 else total)[None, None]
    size = image.shape[2:]
    return F.interpolate(total, size, mode="bilinear", align_corners=False)[0, 0].numpy()


@pytest.mark.parametrize("spec", [RESIDUAL, PREACT, VGG])
def test_maps_equal_those_found_with_hooks(spec: ModelSpec, tmp_path: Path):
    net, split = small_net(spec), write_images(tmp_path)
    images = net.preprocess([tmp_path / name for name in split.files.paths])
    targets = torch.arange(len(images)) % len(CLASSES)
    maps = grad_cam(net, images, targets)
    assert maps.shape == (len(images), 28, 28)
    assert not maps.requires_grad
    assert maps.amax() > 0.5
    for ours, image, target in zip(maps, images, targets, strict=True):
        theirs = with_hooks(net, image[None], int(target))
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)


def test_maps_of_small_images_come_from_a_stage_of_enough_cells():
    """Of 64 px the last stage of a ResNet for ImageNet has 2 x 2 cells, the second one 8 x 8."""
    torch.manual_seed(0)
    net = build(spec("resnet18", num_classes=3)).eval()
    for size, stage in ((64, "stage2"), (224, "stage4"), (32, "stage1")):
        images = torch.randn(1, 3, size, size)
        with torch.no_grad():
            assert cam_stage(net.stages(images)) == stage
        ours = grad_cam(net, images, torch.tensor([1]))
        theirs = with_hooks(net, images, 1, stage)
        np.testing.assert_allclose(ours[0].numpy(), theirs, atol=1e-4)


def test_maps_come_in_inference_mode_too_and_leave_no_gradients(tmp_path: Path):
    net, split = small_net(RESIDUAL), write_images(tmp_path)
    images = net.preprocess([tmp_path / name for name in split.files.paths[:2]])
    outside = grad_cam(net, images, torch.tensor([0, 1]))
    with torch.no_grad():
        torch.testing.assert_close(grad_cam(net, images, torch.tensor([0, 1])), outside)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_nothing_for_the_class_is_an_empty_map():
    net = small_net(RESIDUAL)
    with torch.no_grad():
        net.head.weight.zero_()
    maps = grad_cam(net, torch.rand(1, 3, 28, 28), torch.tensor([2]))
    assert torch.equal(maps, torch.zeros(1, 28, 28))


def test_the_heat_map_is_high_where_the_network_looks(tmp_path: Path):
    """A net that knows only how bright a place is looks at the one bright place."""
    net = small_net(RESIDUAL, resize=28)
    with torch.no_grad():
        for block in (net.stage1, net.stage2):
            for parameter in block.parameters():
                parameter.abs_()
        for norm in (module for module in net.modules() if hasattr(module, "running_mean")):
            norm.running_mean.zero_()
        net.stem.conv.weight.abs_()
        net.stem.norm.weight.fill_(1)
        net.stem.norm.bias.zero_()
        net.head.weight.fill_(1)
    pixels = np.zeros((280, 280, 3), np.uint8)
    pixels[180:240, 30:90] = 255  # lower left
    Image.fromarray(pixels).save(tmp_path / "spot.png")
    explain(net, tmp_path / "spot.png", "cat", 0.875, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        page = np.asarray(image.convert("RGB")).astype(int)
    left, right = page[12 : 12 + PANEL, 12 : 12 + PANEL], page[12 : 12 + PANEL, 24 + PANEL : -12]
    assert np.abs(left - left.mean(2, keepdims=True)).max() == 0  # the image itself is grey
    color = right.max(2) - right.min(2)
    row, column = np.unravel_index(color.argmax(), color.shape)
    y, x = (np.argwhere(color > 0.9 * color.max()).mean(0) / PANEL).tolist()
    assert 0.55 < y < 0.95, (row, column)
    assert 0.05 < x < 0.4
    assert page.shape == (PANEL + 24 + 44, 2 * PANEL + 36, 3)
    assert [file.name for file in tmp_path.glob(".*")] == []


def test_long_names_are_cut_and_long_lines_wrapped():
    lines = wrap_text("words " * 60 + "x" * 300, 300)
    assert "".join(lines).replace(" ", "") == "words" * 60 + "x" * 300
    assert all(TextRenderer(FONT_SIZE).width(line) <= 300 for line in lines)

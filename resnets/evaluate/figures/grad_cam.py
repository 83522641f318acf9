"""Grad-CAM: class activation maps from the gradient of a class score."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from resnets.config import Preprocess
from resnets.data.decode.decode import decode
from resnets.data.files.folder import read_file
from resnets.evaluate.figures.image_grid import GAP, draw_caption, new_page, save_png
from resnets.models import ImageClassifier

MIN_CELLS = 7  # per side of a map, to show a location in the image
PANEL = 320  # px of each of the two panels


def grad_cam(model: ImageClassifier, images: Tensor, targets: Tensor) -> Tensor:
    """Return Grad-CAM maps (B, H, W) in 0..1 (Selvaraju et al. 2017) of classes `targets` (B,).

    `images` (B, C, H, W) are normalized. The maps of a stage are weighted by the mean gradient of
    the class's logit, summed, clipped at 0, scaled to 0..1 and resized bilinearly (eqs. 1 and 2);
    all zero if no feature supports the class. The stage is the last one of at least `MIN_CELLS` x
    `MIN_CELLS` cells, which for images of 224 px is the last stage.
    """
    with torch.enable_grad():
        stages = model.stages(images.detach().requires_grad_())
        features = stages[cam_stage(stages)]  # (B, C, H', W')
        logits = model.classify(stages[model.stage_names[-1]])
        (gradient,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), features)
    features = features.detach()
    weights = gradient.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
    maps = F.relu((weights * features).sum(1, keepdim=True)).detach()
    maps = maps / maps.amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    size = (images.shape[2], images.shape[3])
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)[:, 0]


def cam_stage(stages: Mapping[str, Tensor]) -> str:
    """Return the last of `stages` of at least `MIN_CELLS` x `MIN_CELLS` cells, or the first one."""
    fine = [name for name, maps in stages.items() if min(maps.shape[2:]) >= MIN_CELLS]
    return [next(iter(stages)), *fine][-1]


def explain(model: ImageClassifier, path: Path, name: str, probability: float, out: Path) -> None:
    """Write a PNG to `out`: the model's input, and the Grad-CAM map of class `name` over it.

    Raises DataError if the image cannot be read.
    """
    spec: Preprocess = model.preprocess.spec
    data = read_file(path)
    image = model.preprocess(path)[None].to(next(model.parameters()).device)
    target = torch.tensor([model.classes.index(name)], device=image.device)
    activation = grad_cam(model, image, target)[0].cpu()
    # The same crop of the image, at a size for display.
    view = dataclasses.replace(model.preprocess.view, size=max(PANEL, spec.size), channels=3)
    crop = Image.fromarray(decode(data, view, str(path))).resize((PANEL, PANEL))
    page = new_page(2 * PANEL + 3 * GAP, PANEL + 2 * GAP + 44)
    page.paste(crop, (GAP, GAP))
    page.paste(overlay_heat_map(crop, activation.numpy()), (PANEL + 2 * GAP, GAP))
    draw_caption(
        page, (GAP, PANEL + 2 * GAP - 4), f"{name}  {probability:.1%}", 2 * PANEL, strong=True
    )
    draw_caption(page, (GAP, PANEL + 2 * GAP + 18), path.name, 2 * PANEL)
    save_png(page, out)


def overlay_heat_map(image: Image.Image, activation: NDArray[np.float32]) -> Image.Image:
    """Overlay `image` with a map (H, W) in 0..1: transparent at 0, red and opaque at 1."""
    level = Image.fromarray(activation).resize(image.size, Image.Resampling.BICUBIC)
    values = np.clip(np.asarray(level), 0, 1)[..., None]
    colors = matplotlib.colormaps["turbo"](values[..., 0])[..., :3] * 255
    gray = np.asarray(image.convert("L").convert("RGB"), np.float64)
    mixed = gray * (1 - 0.6 * values**0.5) + colors * 0.6 * values**0.5
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))

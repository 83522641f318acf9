"""Where a net looks: class activation maps from the gradients of a class (Grad-CAM)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from resnets.config import Preprocess
from resnets.data.decode.decode import decode
from resnets.data.files.folder import read_file
from resnets.evaluate.figures.overlays import GAP, canvas, caption, heat, save
from resnets.models import ImageClassifier

PANEL = 320  # px of each of the two pictures


def grad_cam(net: ImageClassifier, images: Tensor, targets: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, eqs. 1 and 2) of classes `targets` (B,): (B, H, W) in 0..1.

    `images` (B, C, H, W) are normalised. The maps of the last stage are weighted by the mean
    gradient of the class's logit, summed, cut off at 0, brought to 0..1 and resized bilinearly. All
    zero where nothing speaks for the class.
    """
    with torch.no_grad():
        features = net.stages(images)[net.stage_names[-1]]  # (B, C, H', W')
    with torch.enable_grad():
        features = features.detach().requires_grad_()
        score = net.classify(features).gather(1, targets[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, features)
    weights = gradient.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
    maps = F.relu((weights * features).sum(1, keepdim=True)).detach()
    maps = maps / maps.amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    size = (images.shape[2], images.shape[3])
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)[:, 0]


def explain(net: ImageClassifier, path: Path, name: str, probability: float, out: Path) -> None:
    """Write a PNG to `out`: what the net saw of the picture, and beside it the map of class `name`.

    DataError when the picture cannot be read.
    """
    spec: Preprocess = net.preprocess.spec
    data = read_file(path)
    image = net.preprocess(path)[None].to(next(net.parameters()).device)
    target = torch.tensor([net.classes.index(name)], device=image.device)
    activation = grad_cam(net, image, target)[0].cpu()
    # The same part of the picture, at a size that people can look at.
    view = dataclasses.replace(net.preprocess.view, size=max(PANEL, spec.size), channels=3)
    seen = Image.fromarray(decode(data, view, str(path))).resize((PANEL, PANEL))
    page = canvas(2 * PANEL + 3 * GAP, PANEL + 2 * GAP + 44)
    page.paste(seen, (GAP, GAP))
    page.paste(heat(seen, activation.numpy()), (PANEL + 2 * GAP, GAP))
    caption(page, (GAP, PANEL + 2 * GAP - 4), f"{name}  {probability:.1%}", 2 * PANEL, strong=True)
    caption(page, (GAP, PANEL + 2 * GAP + 18), path.name, 2 * PANEL)
    save(page, out)

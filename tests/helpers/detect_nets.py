"""Small detectors on small nets, for the tests of detection."""

import dataclasses

import torch
from torch import Tensor, nn

from resnets.config import DetectSpec, ModelSpec, Recipe
from resnets.detect.models.build import assemble
from resnets.models import build

NET = ModelSpec(name="small-residual", depths=(1, 1, 1, 1), widths=(8, 12, 16, 20), stem_width=8)
VGG = ModelSpec(
    name="small-vgg", block="vgg", depths=(1, 1, 1), widths=(6, 8, 8), dropout=0.5, norm="none"
)
FPN = DetectSpec(
    pyramid_width=16, region_width=24, box_batch_size=32, rpn_batch_size=32, proposals=(60, 40)
)
C4 = dataclasses.replace(FPN, head="c4", roi_size=6, anchor_sizes=(16, 32))
SEGMENT = dataclasses.replace(FPN, head="fcn", aux_loss_weight=0.4)
PCR = dataclasses.replace(
    FPN, head="pcr", anchor_sizes=(32, 64), rpn_batch_size=8, box_batch_size=6
)


def small_model(
    spec: DetectSpec, task: str = "detect", net: ModelSpec = NET, classes: int = 3, seed: int = 0
):
    """A model in eval mode whose norms have statistics unlike their first values."""
    torch.manual_seed(seed)
    model = assemble(build(net), Recipe(task=task, model=net, detect=spec), classes)  # type: ignore[arg-type]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return model.eval()


def pictures() -> list[Tensor]:
    """Two pictures of sizes that differ, one of them smaller than a cell of the last stage."""
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(3, 90, 130, generator=generator),
        torch.randn(3, 41, 20, generator=generator),
    ]


def targets() -> list[dict[str, Tensor]]:
    """Two objects in the first picture, none in the second."""
    masks = torch.zeros(2, 90, 130, dtype=torch.uint8)
    masks[0, 10:60, 20:70], masks[1, 40:80, 70:120] = 1, 1
    return [
        {
            "boxes": torch.tensor([[20.0, 10, 70, 60], [70, 40, 120, 80]]),
            "labels": torch.tensor([1, 3]),
            "masks": masks,
        },
        {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0, dtype=torch.int64),
            "masks": torch.zeros(0, 41, 20, dtype=torch.uint8),
        },
    ]

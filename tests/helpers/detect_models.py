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


def random_images() -> list[Tensor]:
    """Two images of sizes that differ, one of them smaller than a cell of the last stage."""
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(3, 90, 130, generator=generator),
        torch.randn(3, 41, 20, generator=generator),
    ]


def targets() -> list[dict[str, Tensor]]:
    """Two objects in the first image, none in the second."""
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


def to_detectron2(model, head: str) -> dict:
    """A model of ours as detectron2's zoo has it, written from its documentation."""
    found = {}
    for own, tensor in model.state_dict().items():
        name = own
        if "num_batches" in own:
            continue
        if own.startswith("net."):
            name = own.removeprefix("net.")
            if name.startswith("stem"):
                name = name.replace("stem.conv", "stem.conv1").replace(
                    "stem.norm", "stem.conv1.norm"
                )
            else:
                for stage in (4, 3, 2, 1):
                    name = name.replace(f"stage{stage}.", f"res{stage + 1}.")
                for number in (1, 2, 3):
                    name = name.replace(f".norm{number}.", f".conv{number}.norm.")
                name = name.replace("shortcut.conv.", "shortcut.")
            region = head == "c4" and name.startswith("res5")
            before = "roi_heads." if region else "backbone."
            name = before + ("bottom_up." if head == "fpn" else "") + name
        for ours_, theirs in (
            *(
                (f"pyramid.fpn.inner_blocks.{i}.0", f"backbone.fpn_lateral{i + 2}")
                for i in range(4)
            ),
            *((f"pyramid.fpn.layer_blocks.{i}.0", f"backbone.fpn_output{i + 2}") for i in range(4)),
            ("rpn.head.conv.0.0", "proposal_generator.rpn_head.conv"),
            ("rpn.head.cls_logits", "proposal_generator.rpn_head.objectness_logits"),
            ("rpn.head.bbox_pred", "proposal_generator.rpn_head.anchor_deltas"),
            ("box_head.fc6", "box_head.fc1"),
            ("box_head.fc7", "box_head.fc2"),
            *((f"mask_head.{i}.0", f"mask_head.mask_fcn{i + 1}") for i in range(4)),
            ("mask_predictor.conv5_mask", "mask_head.deconv"),
            ("mask_predictor.mask_fcn_logits", "mask_head.predictor"),
        ):
            name = name.replace(ours_, theirs)
        if "cls_score" in name:  # background last
            tensor = torch.cat((tensor[1:], tensor[:1]))
        if "bbox_pred" in name:
            tensor = tensor[4:]
        if "mask_head.predictor" in name:
            tensor = tensor[1:]
        if head == "c4" and ("objectness" in name or "anchor_deltas" in name):
            values = 4 if "deltas" in name else 1  # anchors by size first, then by ratio
            tensor = tensor.unflatten(0, (3, 2, values)).transpose(0, 1).flatten(0, 2)
        found[name] = tensor.numpy()
    return found

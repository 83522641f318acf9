"""`Localizer` and `Refiner`: the class of an image's object and one box (paper, appendix C)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.ops import box_iou, clip_boxes_to_image, roi_align

from resnets.config import ConfigError, DetectSpec
from resnets.detect.data.types import DetectionSplit, Located
from resnets.detect.metrics.meters import LocationMeter
from resnets.detect.models.base import DetectionModel, InferenceOptions
from resnets.detect.models.layers import behead, clip_boxes, pad, rescale, to_float32
from resnets.detect.outputs import LocationOutput
from resnets.models import ImageClassifier

Sizes = list[tuple[int, int]]
LIKELY = 5  # classes whose boxes R-CNN looks at again


def center_crop(image: Tensor, spec: DetectSpec) -> tuple[Tensor, tuple[float, float]]:
    """What a localizer reads of an image (C, H, W), its left and top: the center, or all of it."""
    if spec.train_crop is None:
        return image, (0.0, 0.0)
    high, wide = (min(spec.train_crop, side) for side in image.shape[-2:])
    top, left = ((image.shape[-2] - high) // 2, (image.shape[-1] - wide) // 2)
    return image[:, top : top + high, left : left + wide], (float(left), float(top))


class _LocalizationModel(DetectionModel):
    """One box for each class, and how likely the class is.

    In eval mode a call with images, and scores (B, K) of their classes if those are known, returns
    probabilities (B, K), a box of each class (B, K, 4), and how confident the model is of that box
    (B, K), comparable between images of one model.
    """

    kind = "localizer"

    def infer(
        self,
        image: Tensor,
        size: tuple[int, int],
        others: Sequence[_LocalizationModel] = (),
        options: InferenceOptions = InferenceOptions(),  # noqa: B008 (frozen)
        scores: Tensor | None = None,
    ) -> LocationOutput:
        """See `DetectionModel`; scores and boxes of an ensemble are averaged.

        With `options.scales`, give the image at the largest: it is read at each, the class scores
        are averaged, and of each class the most confident box is kept. Without, a model of
        `spec.train_crop` reads the center square alone.
        """
        views, corner = self._views(image, options)
        given = None if scores is None else scores[None]
        with torch.no_grad():
            answers = [model._locate(views, given) for model in (self, *others)]
        found, boxes = (torch.stack(some).mean(0) for some in zip(*answers, strict=True))
        boxes = boxes + boxes.new_tensor(corner * 2)
        return self.to_output({"scores": found, "boxes": boxes}, image.shape[-2:], size)

    @staticmethod
    def to_output(
        found: Mapping[str, Tensor], shape: Sequence[int], size: tuple[int, int]
    ) -> LocationOutput:
        """See `DetectionModel`."""
        (height, width), (high, wide) = size, shape
        boxes = found["boxes"] * found["boxes"].new_tensor([width / wide, height / high] * 2)
        scores = found["scores"].cpu().numpy()
        return LocationOutput(size, Located(scores=scores, boxes=boxes.cpu().numpy()))

    def _views(
        self, image: Tensor, options: InferenceOptions
    ) -> tuple[list[tuple[Tensor, float]], tuple[float, float]]:
        """What is read: images, each with its scale; and their left and top in `image`."""
        shorter = min(image.shape[-2:])
        if options.scales:
            factors = [side / shorter for side in options.scales]
            return [(rescale(image, factor), factor) for factor in factors], (0.0, 0.0)
        center, corner = center_crop(image, self.spec)
        return [(center, 1.0)], corner

    def _locate(
        self, views: Sequence[tuple[Tensor, float]], given: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Scores (K,), and boxes (K, 4) in pixels of scale 1, from all views of an image."""
        found = [self([view], scores=given) for view, _ in views]
        boxes = torch.stack(
            [each[1][0] / factor for each, (_, factor) in zip(found, views, strict=True)]
        )
        best = torch.stack([each[2][0] for each in found]).argmax(0)  # (K,)
        return (
            torch.stack([each[0][0] for each in found]).mean(0),
            boxes[best, torch.arange(self.num_classes, device=best.device)],
        )

    def meter(
        self, split: DetectionSplit, others: Sequence[_LocalizationModel] = ()
    ) -> LocationMeter:
        """See `DetectionModel`."""
        return LocationMeter()


class Localizer(_LocalizationModel):
    """A per-class RPN ("PCR"): two 1x1 convolutions on the last stage, and a classifier.

    For each of A anchors at each place and each class: is it this class's object (a binary logistic
    regression), and its box. The paper takes classes from networks trained apart (`scores`); here a
    linear layer on the same network is trained with the boxes, too.
    """

    def __init__(self, net: ImageClassifier, spec: DetectSpec, num_classes: int) -> None:
        if net.spec.is_vgg:
            raise ConfigError(f"task 'localize': {net.spec.name}; use a residual or plain network")
        behead(net, stages_only=False)
        super().__init__(net, spec, num_classes)
        channels = net.spec.widths[-1] * net.spec.expansion
        self.anchors = AnchorGenerator((spec.anchor_sizes,), (spec.anchor_ratios,))
        each = self.anchors.num_anchors_per_location()[0]
        self.classifier = nn.Linear(channels, num_classes)
        self.objectness = nn.Conv2d(channels, each * num_classes, 1)
        self.offsets = nn.Conv2d(channels, each * num_classes * 4, 1)
        for layer in (self.classifier, self.objectness, self.offsets):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
        self.sampler = BalancedPositiveNegativeSampler(spec.rpn_batch_size, 0.5)

    def read(self, padded: ImageList) -> tuple[Tensor, Tensor, Tensor, list[Tensor], Sizes]:
        """Class logits (B, K), objectness (B, N, K), offsets (B, N, K, 4), anchors, sizes.

        N anchors of each image; all outputs are float32.
        """
        features = self.net.stages(padded.tensors)[self.net.stage_names[-1]]
        anchors = self.anchors(padded, [features])
        logits = self.classifier(self.net.classify(features))
        objectness = self._by_anchor(self.objectness(features), 1)[..., 0]
        offsets = self._by_anchor(self.offsets(features), 4)
        return to_float32(logits), objectness, offsets, anchors, padded.image_sizes

    def _by_anchor(self, x: Tensor, values: int) -> Tensor:
        """(B, A * K * values, H, W) -> (B, H * W * A, K, values), in the anchors' order."""
        batch = len(x)
        x = to_float32(x).unflatten(1, (-1, self.num_classes, values))  # (B, A, K, V, H, W)
        return x.permute(0, 4, 5, 1, 2, 3).reshape(batch, -1, self.num_classes, values)

    def forward(
        self,
        images: Sequence[Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        scores: Tensor | None = None,
    ) -> Any:
        """Losses by name in training; else as `_LocalizationModel` says."""
        return self._answer(pad(images), targets, scores)

    def outputs(self, image: Tensor, size: Tensor) -> dict[str, Tensor]:
        """See `DetectionModel`: scores (K,) and boxes (K, 4)."""
        scores, boxes, _ = self._answer(ImageList(image, [(size[0], size[1])]))
        return {"scores": scores[0], "boxes": boxes[0]}

    def _answer(
        self,
        padded: ImageList,
        targets: list[dict[str, Tensor]] | None = None,
        scores: Tensor | None = None,
    ) -> Any:
        logits, objectness, offsets, anchors, sizes = self.read(padded)
        if self.training:
            assert targets is not None
            return self._losses(logits, objectness, offsets, anchors, targets)
        boxes, confidence = [], []
        for place, size in enumerate(sizes):
            within = _inside(anchors[place], size)
            inside = objectness[place].masked_fill(~within[:, None], -torch.inf)
            highest, rows = inside.max(0)  # (K,)
            confidence.append(highest.sigmoid())
            of_class = torch.arange(self.num_classes, device=rows.device)
            moved = self.coder.decode_single(offsets[place, rows, of_class], anchors[place][rows])
            boxes.append(clip_boxes(moved, size))
        scores = logits.softmax(1) if scores is None else scores
        return scores, torch.stack(boxes), torch.stack(confidence)

    @torch.no_grad()
    def propose(self, images: Sequence[Tensor], labels: Tensor, most: int) -> list[Tensor]:
        """The `most` most likely boxes (R, 4) of class `labels[i]` (from 0) in image i."""
        _, objectness, offsets, anchors, sizes = self.read(pad(images))
        proposals = []
        for place, label in enumerate(labels.tolist()):
            within = torch.where(_inside(anchors[place], sizes[place]))[0]
            scores = objectness[place, within, label]
            rows = within[scores.topk(min(most, len(scores)))[1]]
            moved = self.coder.decode_single(offsets[place, rows, label], anchors[place][rows])
            proposals.append(clip_boxes_to_image(moved, sizes[place]))
        return proposals

    def _losses(
        self,
        logits: Tensor,
        objectness: Tensor,
        offsets: Tensor,
        anchors: list[Tensor],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Sampled anchors, half of them on an object where there are enough (1:1 in the paper)."""
        of_object, of_box, drawn = logits.new_zeros(()), logits.new_zeros(()), 0
        for place, target in enumerate(targets):
            matched = self.matcher(box_iou(target["boxes"], anchors[place]))
            roles = (matched >= 0).float()
            roles[matched == self.matcher.BETWEEN_THRESHOLDS] = -1
            positive, negative = (torch.where(each[0])[0] for each in self.sampler([roles]))
            objects = matched[positive]
            labels = target["labels"][objects] - 1
            rows = torch.cat((positive, negative))
            truth = objectness.new_zeros(len(rows), self.num_classes)
            truth[torch.arange(len(positive)), labels] = 1
            of_object = of_object + F.binary_cross_entropy_with_logits(
                objectness[place, rows], truth, reduction="sum"
            )
            wanted = self.coder.encode_single(target["boxes"][objects], anchors[place][positive])
            of_box = of_box + F.smooth_l1_loss(
                offsets[place, positive, labels], wanted, beta=1 / 9, reduction="sum"
            )
            drawn += len(rows)
        first = torch.stack([target["labels"][0] - 1 for target in targets])
        return {
            "loss_class": F.cross_entropy(logits, first),
            "loss_objectness": of_object / max(1, drawn),
            "loss_box_reg": of_box / max(1, drawn),
        }


class Refiner(_LocalizationModel):
    """R-CNN on a localizer's proposals: each is warped to the network's input and evaluated anew.

    `proposer` is trained before and stays as it is. Regions of `spec.proposals` boxes of the true
    class are learnt from, `spec.box_batch_size` a image, a quarter of them on the object.
    """

    def __init__(
        self, net: ImageClassifier, proposer: Localizer, spec: DetectSpec, num_classes: int
    ) -> None:
        behead(net, stages_only=False)
        super().__init__(net, spec, num_classes)
        channels = net.spec.widths[-1] * net.spec.expansion
        self.predictor = FastRCNNPredictor(channels, num_classes + 1)
        self.proposer = proposer.requires_grad_(False).eval()
        self.coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
        self.matcher = Matcher(0.5, 0.5, allow_low_quality_matches=False)
        self.sampler = BalancedPositiveNegativeSampler(spec.box_batch_size, 0.25)

    def train(self, mode: bool = True) -> Refiner:
        """Training mode for all but the proposer."""
        super().train(mode)
        self.proposer.eval()
        return self

    def score_boxes(self, images: Sequence[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (R, K + 1), background first, and offsets (R, 4 (K + 1)) of boxes of images."""
        side = self.net.spec.input_size
        crops = [
            roi_align(image[None], [box], side, sampling_ratio=1)
            for image, box in zip(images, boxes, strict=True)
        ]
        warped = torch.cat(crops).contiguous(memory_format=torch.channels_last)
        features = self.net.stages(warped)[self.net.stage_names[-1]]
        logits, offsets = self.predictor(self.net.classify(features))
        return to_float32(logits), to_float32(offsets)

    def forward(
        self,
        images: Sequence[Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        scores: Tensor | None = None,
    ) -> Any:
        """As a `Localizer`'s: classes are the proposer's, boxes of the most likely are new.

        Boxes that R-CNN has read are more confident than those that it has not.
        """
        if self.training:
            assert targets is not None
            return self._losses(images, targets)
        scores, boxes, confidence = self.proposer(images, scores=scores)
        likely = scores.topk(min(LIKELY, self.num_classes), 1)[1]  # (B, 5)
        for rank in range(likely.shape[1]):
            labels = likely[:, rank]
            proposals = self.proposer.propose(images, labels, self.spec.proposals[1])
            logits, offsets = self.score_boxes(images, proposals)
            moved = self.coder.decode(offsets, proposals)  # (R, K + 1, 4)
            start = 0
            for place, label in enumerate(labels.tolist()):
                end = start + len(proposals[place])
                probability, row = logits[start:end].softmax(1)[:, label + 1].max(0)
                confidence[place, label] = 1 + probability
                best = start + int(row)
                size = images[place].shape[-2], images[place].shape[-1]
                boxes[place, label] = clip_boxes_to_image(moved[best, label + 1], size)
                start = end
        return scores, boxes, confidence

    def _losses(
        self, images: Sequence[Tensor], targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        first = torch.stack([target["labels"][0] - 1 for target in targets])
        proposals = self.proposer.propose(images, first, self.spec.proposals[0])
        boxes, labels, wanted = [], [], []
        for target, found in zip(targets, proposals, strict=True):
            found = torch.cat((found, target["boxes"]))
            matched = self.matcher(box_iou(target["boxes"], found))
            of = target["labels"][matched.clamp(min=0)] * (matched >= 0)
            positive, negative = (each[0] for each in self.sampler([of]))
            rows = torch.where(positive.bool() | negative.bool())[0]
            boxes.append(found[rows])
            labels.append(of[rows])
            truth = target["boxes"][matched[rows].clamp(min=0)]
            wanted.append(self.coder.encode_single(truth, found[rows]))
        logits, offsets = self.score_boxes(images, boxes)
        of_class, of_box = fastrcnn_loss(logits, offsets, labels, wanted)
        return {"loss_classifier": of_class, "loss_box_reg": of_box}


def _inside(anchors: Tensor, size: tuple[int, int]) -> Tensor:
    """Which anchors have their center in the image (H, W), not in its padding."""
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    return (centers[:, 0] < size[1]) & (centers[:, 1] < size[0])

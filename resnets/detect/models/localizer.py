"""`Localizer` and `Refiner`: the class of an image's object and its box (paper, appendix C)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou, clip_boxes_to_image, roi_align

from resnets.config import ConfigError, DetectSpec
from resnets.detect.data.types import DetectionSplit, Located
from resnets.detect.metrics.meters import LocationMeter
from resnets.detect.models.base import DetectionModel, InferenceOptions
from resnets.detect.models.layers import clip_boxes, pad, remove_head, rescale, to_float32
from resnets.detect.models.sampling import BoxCoder, BoxMatcher, BoxSampler, rows_of
from resnets.detect.outputs import LocationOutput
from resnets.models import ImageClassifier
from resnets.utils.machine.environment import copy_to_device, copy_to_host

Sizes = list[tuple[int, int]]
NUM_REFINED = 5  # number of classes whose boxes R-CNN refines


def center_crop(images: Tensor, spec: DetectSpec) -> tuple[Tensor, tuple[float, float]]:
    """Return the part of images (..., H, W) that a localizer uses, and its left and top.

    This is the center square of `spec.train_crop` px, or the whole image if that is None.
    """
    if spec.train_crop is None:
        return images, (0.0, 0.0)
    height, width = (min(spec.train_crop, side) for side in images.shape[-2:])
    top, left = ((images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2)
    return images[..., top : top + height, left : left + width], (float(left), float(top))


class LocalizationModel(DetectionModel):
    """Predicts one box for each class, and the probability of each class.

    In eval mode, a call with images (and optionally their class scores (B, K)) returns
    probabilities (B, K), one box per class (B, K, 4), and the confidence of that box (B, K), which
    can be compared between images of one model.
    """

    kind = "localizer"

    def infer(
        self,
        images: Tensor,
        sizes: Sequence[tuple[int, int]],
        others: Sequence[LocalizationModel] = (),
        options: InferenceOptions = InferenceOptions(),  # noqa: B008 (frozen)
        scores: Tensor | None = None,
    ) -> list[LocationOutput]:
        """See `DetectionModel`; scores and boxes of an ensemble are averaged.

        With `options.scales`, images are given at the largest scale and evaluated at each: class
        scores are averaged, and the most confident box of each class is kept. Without scales, a
        model with `spec.train_crop` is evaluated on the center square.
        """
        views, corner = self._views(images, options)
        with torch.no_grad():
            located = [model._locate(views, scores) for model in (self, *others)]
        averaged, boxes = (torch.stack(each).mean(0) for each in zip(*located, strict=True))
        offset = torch.tensor(corner * 2, dtype=boxes.dtype)
        boxes = boxes + copy_to_device(offset, boxes.device)
        averaged, boxes = copy_to_host([averaged, boxes])
        return [
            self.to_output({"scores": s, "boxes": b}, images.shape[-2:], size)
            for s, b, size in zip(averaged, boxes, sizes, strict=True)
        ]

    @staticmethod
    def to_output(
        found: Mapping[str, Tensor], shape: Sequence[int], size: tuple[int, int]
    ) -> LocationOutput:
        """See `DetectionModel`."""
        (height, width), (high, wide) = size, shape
        boxes = found["boxes"] * found["boxes"].new_tensor([width / wide, height / high] * 2)
        return LocationOutput(size, Located(scores=found["scores"].numpy(), boxes=boxes.numpy()))

    def _views(
        self, images: Tensor, options: InferenceOptions
    ) -> tuple[list[tuple[Tensor, float]], tuple[float, float]]:
        """Return batches, each with its scale, and their left and top in `images`."""
        shorter = min(images.shape[-2:])
        if options.scales:
            factors = [side / shorter for side in options.scales]
            return [(rescale(images, factor), factor) for factor in factors], (0.0, 0.0)
        center, corner = center_crop(images, self.spec)
        return [(center, 1.0)], corner

    def _locate(
        self, views: Sequence[tuple[Tensor, float]], scores: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return scores (B, K), and boxes (B, K, 4) at scale 1, from all views of a batch."""
        located = [self(list(view), scores=scores) for view, _ in views]
        boxes = torch.stack(
            [each[1] / factor for each, (_, factor) in zip(located, views, strict=True)]
        )  # (V, B, K, 4)
        best = torch.stack([each[2] for each in located]).argmax(0)  # (B, K)
        chosen = boxes.gather(0, best[None, ..., None].expand(1, *boxes.shape[1:]))[0]
        return torch.stack([each[0] for each in located]).mean(0), chosen

    def meter(
        self, split: DetectionSplit, others: Sequence[LocalizationModel] = ()
    ) -> LocationMeter:
        """See `DetectionModel`."""
        return LocationMeter()


class Localizer(LocalizationModel):
    """Per-class regression (PCR): an RPN with boxes per class on the last stage, and a classifier.

    The RPN is two 1x1 convolutions.

    For each of A anchors per position and each class, it predicts whether the anchor is the object
    of this class (binary logistic regression), and its box. In the paper, classes are predicted by
    separate networks (`scores`); here a linear layer on the same network is trained together with
    the boxes.
    """

    def __init__(self, net: ImageClassifier, spec: DetectSpec, num_classes: int) -> None:
        if net.spec.is_vgg:
            raise ConfigError(f"task 'localize': {net.spec.name}; use a residual or plain network")
        remove_head(net, stages_only=False)
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
        self.matcher = BoxMatcher(0.7, 0.3, allow_low_quality_matches=True)
        self.sampler = BoxSampler(spec.rpn_batch_size, 0.5)

    def read(self, padded: ImageList) -> tuple[Tensor, Tensor, Tensor, list[Tensor], Sizes]:
        """Return class logits (B, K), objectness (B, N, K), offsets (B, N, K, 4), anchors, sizes.

        There are N anchors per image; all outputs are float32.
        """
        features = self.net.stages(padded.tensors)[self.net.stage_names[-1]]
        anchors = self.anchors(padded, [features])
        logits = self.classifier(self.net.classify(features))
        objectness = self._by_anchor(self.objectness(features), 1)[..., 0]
        offsets = self._by_anchor(self.offsets(features), 4)
        return to_float32(logits), objectness, offsets, anchors, padded.image_sizes

    def _by_anchor(self, x: Tensor, values: int) -> Tensor:
        """Reshape (B, A * K * values, H, W) to (B, H * W * A, K, values), in the anchors' order."""
        batch = len(x)
        x = to_float32(x).unflatten(1, (-1, self.num_classes, values))  # (B, A, K, V, H, W)
        return x.permute(0, 4, 5, 1, 2, 3).reshape(batch, -1, self.num_classes, values)

    def forward(
        self,
        images: Sequence[Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        scores: Tensor | None = None,
    ) -> Any:
        """Return losses by name in training, otherwise see `LocalizationModel`."""
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
        for index, size in enumerate(sizes):
            is_inside = _is_inside(anchors[index], size)
            masked = objectness[index].masked_fill(~is_inside[:, None], -torch.inf)
            highest, rows = masked.max(0)  # (K,)
            confidence.append(highest.sigmoid())
            class_index = torch.arange(self.num_classes, device=rows.device)
            decoded = self.coder.decode_single(
                offsets[index, rows, class_index], anchors[index][rows]
            )
            boxes.append(clip_boxes(decoded, size))
        scores = logits.softmax(1) if scores is None else scores
        return scores, torch.stack(boxes), torch.stack(confidence)

    @torch.no_grad()
    def propose(
        self, images: Sequence[Tensor], labels: Tensor, max_boxes: int
    ) -> list[list[Tensor]]:
        """Return the best `max_boxes` boxes (R, 4) of given classes per image; synchronizes once.

        labels: (B, L), from 0. Returns L lists, each with one tensor per image.
        """
        _, objectness, offsets, anchors, sizes = self.read(pad(images))
        are_inside = rows_of([_is_inside(*each) for each in zip(anchors, sizes, strict=True)])
        proposals: list[list[Tensor]] = []
        for column in labels.T:
            proposals.append([])
            for index, inside in enumerate(are_inside):
                label = column[index : index + 1]  # not a number, which the host would wait for
                scores = objectness[index, inside, label]
                rows = inside[scores.topk(min(max_boxes, len(scores)))[1]]
                decoded = self.coder.decode_single(
                    offsets[index, rows, label], anchors[index][rows]
                )
                proposals[-1].append(clip_boxes_to_image(decoded, sizes[index]))
        return proposals

    def _losses(
        self,
        logits: Tensor,
        objectness: Tensor,
        offsets: Tensor,
        anchors: list[Tensor],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Compute losses of sampled anchors, half of them positive if possible (paper: 1:1)."""
        objectness_loss, box_loss, num_sampled = logits.new_zeros(()), logits.new_zeros(()), 0
        all_matched = [
            self.matcher(box_iou(target["boxes"], anchors[index]))
            for index, target in enumerate(targets)
        ]
        is_between = [matched == self.matcher.BETWEEN_THRESHOLDS for matched in all_matched]
        roles = [
            (matched >= 0).float().masked_fill(ignored, -1.0)
            for matched, ignored in zip(all_matched, is_between, strict=True)
        ]
        for index, (positive, negative) in enumerate(self.sampler(roles)):
            target, objects = targets[index], all_matched[index][positive]
            offsets_true = self.coder.encode_single(
                target["boxes"][objects], anchors[index][positive]
            )
            rows = torch.cat((positive, negative))
            losses = _per_class_losses(
                objectness[index, rows],
                offsets[index, rows],
                torch.arange(len(positive), device=rows.device),
                target["labels"][objects] - 1,
                offsets_true,
            )
            objectness_loss, box_loss = objectness_loss + losses[0], box_loss + losses[1]
            num_sampled += len(rows)
        labels_of_image = torch.stack([target["labels"][0] - 1 for target in targets])
        return {
            "loss_class": F.cross_entropy(logits, labels_of_image),
            "loss_objectness": objectness_loss / max(1, num_sampled),
            "loss_box_reg": box_loss / max(1, num_sampled),
        }


class Refiner(LocalizationModel):
    """R-CNN on a localizer's proposals, each warped to the network's input and classified again.

    Class and box are predicted per class, as by the localizer: for each class, whether the region
    is its object (binary logistic regression), and the box. `proposer` is already trained, and
    frozen. `spec.proposals` boxes of the true class are sampled, `spec.box_batch_size` per image, a
    quarter of them positive.
    """

    def __init__(
        self, net: ImageClassifier, proposer: Localizer, spec: DetectSpec, num_classes: int
    ) -> None:
        remove_head(net, stages_only=False)
        super().__init__(net, spec, num_classes)
        channels = net.spec.widths[-1] * net.spec.expansion
        self.predictor = FastRCNNPredictor(channels, num_classes)  # without a background class
        self.proposer = proposer.requires_grad_(False).eval()
        self.coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
        self.matcher = BoxMatcher(0.5, 0.5)
        self.sampler = BoxSampler(spec.box_batch_size, 0.25)

    def train(self, mode: bool = True) -> Refiner:
        """Set the training mode of all modules except the proposer."""
        super().train(mode)
        self.proposer.eval()
        return self

    def score_boxes(self, images: Sequence[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits (R, K) and offsets (R, K, 4) of all boxes."""
        side = self.net.spec.input_size
        crops = [
            roi_align(image[None], [box], side, sampling_ratio=1)
            for image, box in zip(images, boxes, strict=True)
        ]
        warped = torch.cat(crops).contiguous(memory_format=torch.channels_last)
        features = self.net.stages(warped)[self.net.stage_names[-1]]
        logits, offsets = self.predictor(self.net.classify(features))
        return to_float32(logits), to_float32(offsets).unflatten(1, (-1, 4))

    def forward(
        self,
        images: Sequence[Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        scores: Tensor | None = None,
    ) -> Any:
        """See `Localizer`: classes are the proposer's; boxes of the most probable ones are refined.

        Refined boxes have a higher confidence than others.
        """
        if self.training:
            assert targets is not None
            return self._losses(images, targets)
        scores, boxes, confidence = self.proposer(images, scores=scores)
        top_labels = scores.topk(min(NUM_REFINED, self.num_classes), 1)[1]  # (B, 5)
        all_proposals = self.proposer.propose(images, top_labels, self.spec.proposals[1])
        for labels, proposals in zip(top_labels.T, all_proposals, strict=True):
            logits, offsets = self.score_boxes(images, proposals)
            decoded = self.coder.decode(offsets.flatten(1), proposals)  # (R, K, 4)
            start = 0
            for index, image in enumerate(images):
                end, label = start + len(proposals[index]), labels[index : index + 1]
                logit, row = logits[start:end, label].max(0)  # (1,)
                confidence[index, label] = 1 + logit.sigmoid()
                found = decoded[start + row, label]  # (1, 4)
                size = image.shape[-2], image.shape[-1]
                boxes[index, label] = clip_boxes_to_image(found, size)
                start = end
        return scores, boxes, confidence

    def _losses(
        self, images: Sequence[Tensor], targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        labels_of_image = torch.stack([target["labels"][0] - 1 for target in targets])
        (proposals,) = self.proposer.propose(
            images, labels_of_image[:, None], self.spec.proposals[0]
        )
        candidates, matched, all_labels = [], [], []
        for target, proposed in zip(targets, proposals, strict=True):
            candidates.append(torch.cat((proposed, target["boxes"])))
            matched.append(self.matcher(box_iou(target["boxes"], candidates[-1])))
            object_labels = target["labels"][matched[-1].clamp(min=0)]
            all_labels.append(object_labels * (matched[-1] >= 0))
        sampled = [torch.cat(rows).sort()[0] for rows in self.sampler(all_labels)]
        boxes = [each[rows] for each, rows in zip(candidates, sampled, strict=True)]
        labels = [each[rows] for each, rows in zip(all_labels, sampled, strict=True)]
        offsets_true = [
            self.coder.encode_single(target["boxes"][found[rows].clamp(min=0)], chosen)
            for target, found, rows, chosen in zip(targets, matched, sampled, boxes, strict=True)
        ]
        logits, offsets = self.score_boxes(images, boxes)
        return self._region_losses(logits, offsets, torch.cat(labels), torch.cat(offsets_true))

    @staticmethod
    def _region_losses(
        logits: Tensor, offsets: Tensor, labels: Tensor, offsets_true: Tensor
    ) -> dict[str, Tensor]:
        """Compute the losses of R regions; labels: (R,), 0 is background, offsets_true: (R, 4)."""
        (positive,) = rows_of([labels > 0])
        class_loss, box_loss = _per_class_losses(
            logits, offsets, positive, labels[positive] - 1, offsets_true[positive]
        )
        return {
            "loss_classifier": class_loss / len(labels),
            "loss_box_reg": box_loss / len(labels),
        }


def _per_class_losses(
    logits: Tensor, offsets: Tensor, positive: Tensor, classes: Tensor, offsets_true: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the summed losses of classes (binary logistic for each) and of the objects' boxes.

    logits: (R, K). offsets: (R, K, 4). Of the P rows with an object: positive (P,), their classes
    (P,) from 0, and offsets_true (P, 4).
    """
    truth = torch.zeros_like(logits)
    truth[positive, classes] = 1
    class_loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
    box_loss = F.smooth_l1_loss(
        offsets[positive, classes], offsets_true, beta=1 / 9, reduction="sum"
    )
    return class_loss, box_loss


def _is_inside(anchors: Tensor, size: tuple[int, int]) -> Tensor:
    """Return which anchors have their center inside the image (H, W), not in its padding."""
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    return (centers[:, 0] < size[1]) & (centers[:, 1] < size[0])

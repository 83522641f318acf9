"""Images and figures of a classifier's run for its report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from resnets.data import Batch, DataError, Split
from resnets.data.dataset.labels import NO_LABEL, format_label
from resnets.data.transforms.preprocess import Preprocessor
from resnets.evaluate.evaluation import AnyEvaluation, Evaluation
from resnets.evaluate.measure import Mistake
from resnets.evaluate.views import load_image
from resnets.report.classification_details import CaptionedImage, RunDetails, class_rows
from resnets.report.figure_style import Thumbnail
from resnets.utils.files.source_paths import path_within, prefixes

log = logging.getLogger("resnets")


def run_details(
    split_name: str,
    split: Split,
    evaluation: AnyEvaluation,
    mistakes: Sequence[Mistake],
    train_counts: Mapping[str, int],
    batch: Sequence[CaptionedImage],
    source: str,
) -> RunDetails:
    """Return the report's details of `evaluation`.

    train_counts: training images per class. source: of the data; paths are relative to it.
    """
    starts = prefixes(source)
    return RunDetails(
        split_name,
        class_rows(evaluation.to_json()["per_class"], train_counts),
        evaluation.confusion.tolist() if isinstance(evaluation, Evaluation) else (),
        [_caption_mistake(split, each, starts) for each in mistakes],
        batch,
    )


def training_images(
    batch: Batch, preprocessor: Preprocessor, classes: Sequence[str]
) -> list[CaptionedImage]:
    """Return the images of a training batch with their classes, before normalization."""
    assert isinstance(batch.images, Tensor)
    assert isinstance(batch.targets, Tensor)
    mean, scale = preprocessor.mean_and_scale(batch.images.device)
    if mean.shape[1:] not in ((1, 1), batch.images.shape[2:]):  # a mean image of another size
        mean = mean.mean((1, 2), keepdim=True)
    pixels = (batch.images / scale + mean).clamp(0, 255).byte()  # (B, C, H, W)
    pixels = pixels.flip(1) if preprocessor.spec.channel_order == "bgr" else pixels
    pixels = pixels[:, :3] if pixels.shape[1] >= 3 else pixels[:, :1].expand(-1, 3, -1, -1)
    captioned = []
    for k, image in enumerate(pixels.permute(0, 2, 3, 1).cpu().numpy()):
        lines = [format_label(batch.targets[k].cpu().numpy(), classes, NO_LABEL)]
        weight = batch.target_weight
        if batch.other_targets is not None and weight is not None and weight[k] < 1:
            share = float(weight[k])
            other = format_label(batch.other_targets[k].cpu().numpy(), classes, NO_LABEL)
            lines = [f"{share:.0%} {lines[0]}", f"{1 - share:.0%} {other}"]
        captioned.append(CaptionedImage(Thumbnail.of(image), lines))
    return captioned


def _caption_mistake(split: Split, mistake: Mistake, starts: Sequence[str]) -> CaptionedImage:
    try:
        image = Thumbnail.of(np.asarray(load_image(split, mistake.row)))
    except DataError as error:  # a packed data set does not store whole images
        log.info("report: %s", error)
        image = Thumbnail()
    return CaptionedImage(
        image,
        (
            mistake.true,
            f"{mistake.predicted} ({mistake.probability:.1%})",
            path_within(mistake.path, starts),
        ),
    )

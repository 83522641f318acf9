"""`resnets.recompute_norm`: recompute the batch norm statistics of a trained classifier."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from os import PathLike, fspath

import torch
from torch import Tensor

from resnets.config import ConfigError
from resnets.data import eval_batches, order
from resnets.data.dataset.labeled_images import Split
from resnets.data.dataset.summary import announce
from resnets.data.errors import DataError
from resnets.data.transforms.preprocess import Preprocessor
from resnets.evaluate.data.match_classes import open_split
from resnets.evaluate.prepare import to_device, with_progress
from resnets.models import ImageClassifier
from resnets.models.norm import BATCH_NORMS
from resnets.models.norm_statistics import recompute_statistics
from resnets.utils.api_function import api_function
from resnets.utils.errors import refuse_options
from resnets.utils.files.local_paths import output_path
from resnets.weights.checkpoint.find import read_task
from resnets.weights.folder import check_new_folder, save_model
from resnets.weights.given import (
    LOADED,
    Weights,
    check_preprocess,
    copy_for_inference,
    path_or_model,
)
from resnets.weights.load import LoadOptions, load_classifier

log = logging.getLogger("resnets")


@api_function
def recompute_norm(
    weights: Weights,
    data: str | PathLike[str] | None = None,
    *,
    out: str | PathLike[str] | None = None,
    model: str | None = None,
    batch_size: int = 256,
    device: str = "auto",
    quiet: bool = False,
) -> ImageClassifier:
    """Return a classifier whose batch norm statistics are averages over its training set.

        net = resnets.recompute_norm("runs/imagenet-paper-1", out="fixed")

    Running statistics are moving averages over the last training steps. The paper (appendix A), and
    the models that its authors released, use averages over the training set instead: after
    training, the means and variances of all batches are averaged. Detectors then keep these
    statistics fixed. This function reads each training image once in random order (seed 0),
    preprocessed as at test time (no augmentation), in float32, in batches of nearly equal size. In
    this pass each batch is normalized with its own statistics. The paper does not specify the
    crops.

    Args:
        weights: A run, checkpoint, file in a known format, published weights or a loaded model.
        data: Data set as for `resnets.train`; default: the data set that the run was trained on.
            Its training images are read; its classes need not match.
        out: New folder for the model, as `ImageClassifier.save` writes it.
        model: Network of weights that do not specify it (a state dict): a name that `resnets info`
            lists.
        batch_size: Maximum number of images per batch (256 in the paper). With 2, a batch may have
            three images, because no batch has a single one.
        device: auto, cpu, cuda, cuda:1, mps.
        quiet: Print nothing.

    Unreadable images are skipped and logged. Raises ConfigError for a detector, a model without
    batch norm or a batch size below 2. Also raises DataError, CheckpointError and WeightsError.
    """
    path_or_net = path_or_model(weights, complete=False)
    if batch_size < 2:
        raise ConfigError(
            f"--batch-size {batch_size}: must be at least 2 to compute batch norm statistics"
        )
    if out is not None:  # checked before the training set is read
        check_new_folder(output_path(out), fspath(out))
    if isinstance(path_or_net, str):
        if (task := read_task(path_or_net)) != "classify":
            raise ConfigError(
                f"{path_or_net}: is for task {task}; give the classifier that its training "
                "started from"
            )
        net = load_classifier(path_or_net, LoadOptions(model=model), "body")
    else:
        refuse_options(LOADED, model=model)
        net = copy_for_inference(path_or_net)
    if not any(isinstance(module, BATCH_NORMS) for module in net.modules()):
        raise ConfigError(f"{net.origin}: {net.spec.name} has no batch norm layers")
    check_preprocess(net)
    split = open_split(net, None if data is None else fspath(data), "train")
    if len(split) < 2:
        raise ConfigError(
            f"{split.description}: {len(split)} image; batch norm statistics need at least 2"
        )
    if not quiet:
        announce(split)
    chosen, _ = to_device(net, device, "float32")
    rows = order.permutation(len(split), 0, 0).tolist()
    batches = _read_in_even_batches(split, net.preprocess, batch_size, chosen, rows)
    recompute_statistics(net, with_progress(batches, len(split), len, hidden=quiet))
    for message in split.unreadable.messages:
        log.warning("skipped: %s", message)
    net.to("cpu").to(memory_format=torch.contiguous_format)
    net.origin = f"{net.origin}, batch norm averaged over {split.description}"
    fitted = dataclasses.replace(net.postprocess, temperature=1.0, min_score=None)
    if fitted != net.postprocess:
        log.warning(
            "removed the temperature and the threshold for unknown images, which no longer apply"
        )
        net.postprocess = fitted
    if out is not None:
        save_model(net, output_path(out))
    return net


def _read_in_even_batches(
    split: Split, preprocess: Preprocessor, batch_size: int, device: torch.device, rows: list[int]
) -> Iterator[Tensor]:
    """Yield the images of `rows` in the fewest batches, whose sizes differ by at most one.

    If only one image of a batch is readable, it is added to the next batch. In the last batch it is
    skipped.
    """
    count = min(-(-len(rows) // batch_size), len(rows) // 2)
    size, larger = divmod(len(rows), count)
    first = larger * (size + 1)
    alone: Tensor | None = None
    has_batches = False
    for part, each in ((rows[:first], size + 1), (rows[first:], size)):
        for batch in eval_batches(split, preprocess, each, device, rows=part) if part else ():
            images = batch.images
            assert isinstance(images, Tensor)
            images = images if alone is None else torch.cat([alone, images])
            alone = images if len(images) == 1 else None
            if alone is None:
                has_batches = True
                yield images
    if not has_batches:
        raise DataError(
            f"{split.description}: only one image can be read; batch norm statistics need at "
            "least 2"
        )

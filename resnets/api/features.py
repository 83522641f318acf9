"""`resnets.features`: embeddings of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Literal

import torch

from resnets.api.inputs import expand_folders
from resnets.config import ConfigError
from resnets.data import DataError, Split
from resnets.data.dataset.summary import announce
from resnets.data.files.walk import file_head, why_not_image
from resnets.data.transforms.preprocess import ImageInput
from resnets.evaluate.data.match_classes import SplitName, open_all_images, open_split
from resnets.evaluate.features import Embedding, iter_embeddings
from resnets.evaluate.prepare import to_device, with_progress
from resnets.models import ImageClassifier
from resnets.runtime.artifact import is_artifact
from resnets.utils.api_function import api_function
from resnets.utils.errors import refuse_options
from resnets.utils.machine import environment
from resnets.utils.machine.cpu_count import cores
from resnets.utils.printable import echo, format_count
from resnets.weights.given import (
    LOADED,
    Weights,
    check_preprocess,
    copy_for_inference,
    path_or_model,
)
from resnets.weights.load import LoadOptions, load_classifier

ImageSplit = Literal["all", SplitName]


@api_function
def features(
    weights: Weights,
    images: ImageInput | Sequence[ImageInput],
    *,
    split: ImageSplit = "all",
    model: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    quiet: bool = True,
) -> list[Embedding]:
    """Return the embedding of each image, in order: the input of the network's classifier head.

        found = resnets.features("torchvision:resnet50", ["cat.jpg", "photos/"])
        matrix = np.stack([each.vector for each in found if each.error is None])  # (N, D) float32

    An embedding (D,) is the output of the last stage (`ImageClassifier.forward_features`) for the
    center crop, averaged over positions. For an unreadable image `error` is set and the vector is
    empty.

    Args:
        weights: A run, checkpoint, file in a known format, published weights, or a loaded model; no
            head is required.
        images: A path, PIL image, array or tensor, or a sequence of these, as for
            `resnets.predict`. Or a data set as for `resnets.evaluate` (name, folder, tar, ...);
            then each embedding has the `label` of its image.
        split: "all", "test", "val" or "train" of a data set; if the model was trained on it, the
            splits are those of the run.
        model: Network of weights that do not specify it (a state dict): a name that `resnets info`
            lists.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: auto, float32, tf32, float16, bfloat16.
        quiet: Print nothing.

    All vectors are kept in memory (4 D bytes each); the command `resnets features` writes them to a
    Parquet file instead. Raises ConfigError for a detector or artifact, DataError, CheckpointError
    and WeightsError.
    """
    return list(
        open_features(
            weights,
            images,
            split=split,
            model=model,
            device=device,
            precision=precision,
            quiet=quiet,
        )
    )


@dataclass(frozen=True, eq=False)
class FeatureExtractor:
    """A network on its device and the images to embed; iterating computes the embeddings."""

    network: ImageClassifier
    images: Split | Sequence[ImageInput]
    description: str
    device: torch.device
    precision: str
    quiet: bool

    def __iter__(self) -> Iterator[Embedding]:
        """Yield one embedding per image, in order, with a progress bar unless `quiet`."""
        return with_progress(self._embed(self.images), len(self.images), hidden=self.quiet)

    def embed_one(self, image: ImageInput) -> Embedding:
        """Return the embedding of a further image; raises DataError if it cannot be read."""
        (found,) = self._embed([image])
        if found.error is not None:
            raise DataError(found.error)
        return found

    def _embed(self, images: Split | Sequence[ImageInput]) -> Iterator[Embedding]:
        return iter_embeddings(
            self.network, images, device=self.device, precision=self.precision, workers=cores()
        )


def open_features(
    weights: Weights,
    images: ImageInput | Sequence[ImageInput],
    *,
    split: ImageSplit,
    model: str | None,
    device: str,
    precision: str,
    quiet: bool,
) -> FeatureExtractor:
    """Open the network and the images; see `features`."""
    network = _open_network(weights, model)
    opened: Split | Sequence[ImageInput]
    if isinstance(images, str | PathLike) and not _is_image_file(images):
        path = fspath(images)
        opened = (
            open_all_images(network, path)
            if split == "all"
            else open_split(network, path, split, stored=True)
        )
        if not quiet:
            announce(opened)
        description = opened.description
    else:
        refuse_options("only for data sets, not for images; omit it", split=split != "all")
        opened = expand_folders(images, quiet)
        description = format_count(len(opened), "image")
    keep_bits = network.preprocess.spec.keep_bits
    chosen, precise = to_device(network, device, precision, keep_bits=keep_bits)
    if not quiet:
        where = f"{precise} on {environment.device_name(chosen)}"
        echo(f"embedding {description}, {where}", error=True)
    return FeatureExtractor(network, opened, description, chosen, precise, quiet)


def _open_network(weights: Weights, model: str | None) -> ImageClassifier:
    source = path_or_model(weights, complete=False)
    if isinstance(source, ImageClassifier):
        refuse_options(LOADED, model=model)
        check_preprocess(source)
        return copy_for_inference(source)
    if is_artifact(source):
        raise ConfigError(
            f"{source}: is an artifact, which outputs only logits; give the run that it was "
            "exported from"
        )
    return load_classifier(source, LoadOptions(model), "body")


def _is_image_file(path: str | PathLike[str]) -> bool:
    """Whether `path` is an image file by its suffix (it need not exist), and not a data set."""
    file = Path(path).expanduser()
    return not file.is_dir() and why_not_image(file.name, partial(file_head, file)) is None

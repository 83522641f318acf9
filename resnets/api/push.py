"""`resnets.push`: publish a model to a folder or the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath

from resnets.models import ImageClassifier
from resnets.utils.api_function import api_function
from resnets.utils.errors import refuse_options
from resnets.weights.given import LOADED, Weights, path_or_model
from resnets.weights.load import LoadOptions
from resnets.weights.push import Layout, publish
from resnets.weights.push import push as push_path


@api_function
def push(
    weights: Weights,
    to: str | PathLike[str],
    *,
    model: str | None = None,
    classes: str | Sequence[str] | None = None,
    format: Layout = "timm",
    license: str | None = None,
    private: bool = False,
) -> str:
    """Write weights, config.json and a model card to a folder or the Hub; return its path or URL.

        resnets.push(run, "hub:me/pets", license="apache-2.0", private=True)
        model = resnets.load("hub:me/pets")

    Args:
        weights: A run, checkpoint, published weights, or a loaded classifier. The model card of a
            run states its errors.
        to: New folder, or "hub:ORG/NAME", which needs `hf auth login`.
        model: Network of weights that do not specify it, as for `resnets.load`.
        classes: Names of the outputs if the weights have none.
        format: Library whose config and tensor names are written: timm, transformers, torchvision,
            mmpretrain or detectron2. For the last three a state dict, model.pth, is also written.
        license: License of the weights by its name on the Hub (apache-2.0, mit, cc-by-4.0, ...).
        private: Create a private repository on the Hub.

    Raises ConfigError if the folder is not empty or a name is invalid, and WeightsError if the
    library has no such model or the Hub rejects the upload.
    """
    source = path_or_model(weights)
    if isinstance(source, ImageClassifier):
        refuse_options(LOADED, model=model, classes=classes)
        return publish(source, {}, fspath(to), license=license, private=private, format=format)
    options = LoadOptions(model, classes)
    return push_path(
        source, fspath(to), license=license, private=private, options=options, format=format
    )

"""`resnets push`: publish a model to a folder or the Hugging Face Hub, with a model card."""

from __future__ import annotations

from typing import Annotated

import tyro

from resnets.cli.options import Flag
from resnets.cli.process import log_to_stderr
from resnets.utils.printable import echo
from resnets.weights.push import Layout


def command(
    weights: tyro.conf.Positional[str],
    /,
    to: str,
    model: str | None = None,
    classes: str | None = None,
    layout: Annotated[Layout, tyro.conf.arg(name="format")] = "timm",
    license_: Annotated[str | None, tyro.conf.arg(name="license")] = None,
    private: Flag = False,
) -> int:
    """Write weights, config.json and a model card (README.md) to a folder or the Hugging Face Hub.

    `resnets.load` and `resnets predict` read the folder or hub:ORG/NAME; models that torchvision
    and timm have too load there as well. A push to the Hub needs `hf auth login`.

    Args:
        weights: Run folder, checkpoint, weights file, or published weights (see docs/weights.md).
        to: New folder, or hub:ORG/NAME.
        model: Architecture of weights that do not specify it (a state dict); a name listed by
            `resnets info`.
        classes: Class names in output order, if the weights do not contain them: a file with one
            per line, a,b,c, imagenet, or numbers for 0, 1, ...
        layout: Library whose config and tensor names are written. For torchvision, mmpretrain and
            detectron2 a state dict, model.pth, is added to the files of timm.
        license_: License of the weights, as named on the Hub (apache-2.0, mit, cc-by-4.0, ...).
        private: Create a private repository on the Hub.
    """
    from resnets.api.push import push

    log_to_stderr()  # of loading the weights
    target = push(
        weights,
        to,
        model=model,
        classes=classes,
        format=layout,
        license=license_,
        private=private,
    )
    echo(f"pushed {weights}: {target}")
    return 0

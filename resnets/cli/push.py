"""`resnets push`: a trained net into a folder or onto the Hub, with its model card."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro

from resnets.cli.loading import load_options
from resnets.utils.terminal import say


def command(
    weights: tyro.conf.Positional[str],
    /,
    to: str,
    model: str | None = None,
    classes: str | None = None,
    format: Literal["timm", "transformers", "mmpretrain"] = "timm",
    license: str | None = None,
    private: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Put a net where others find it: weights, config.json and a model card (README.md).

    `resnets.load` and `resnets predict` take the folder or hub:ORG/NAME; nets that torchvision and
    timm have too load there as well. A push to the Hub needs `hf auth login`.

    Args:
        weights: Run folder, checkpoint, file in a known format, or published weights.
        to: New folder, or hub:ORG/NAME.
        model: Network of weights that do not say it themselves (a state dict), as `resnets info`
            names it.
        classes: Names of the outputs in order, where the weights do not name them: a file with one
            a line, a,b,c, imagenet, or numbers for 0, 1, ...
        format: Whose config and tensor names are written; mmpretrain gets a model.pth beside them.
        licence: Licence of the weights, as the Hub names it (apache-2.0, mit, cc-by-4.0, ...).
        private: Make a new repository of the Hub private.
    """
    from resnets.weights.push import push

    options = load_options(model, classes)
    place = push(weights, to, license=license, private=private, options=options, format=format)
    say(f"pushed {weights}: {place}")
    return 0

"""`resnets push`: a trained net into a folder or onto the Hub, with its model card."""

from __future__ import annotations

from typing import Annotated

import tyro

from resnets.config.terminal import say


def command(
    weights: tyro.conf.Positional[str],
    /,
    to: str,
    licence: str | None = None,
    private: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Put a net where others find it: weights, config.json and a model card (README.md).

    `resnets.load` and `resnets predict` take the folder or hub:ORG/NAME; nets that torchvision and
    timm have too load there as well. A push to the Hub needs `hf auth login`.

    Args:
        weights: Run folder or checkpoint.
        to: New folder, or hub:ORG/NAME.
        licence: Licence of the weights, as the Hub names it (apache-2.0, mit, cc-by-4.0, ...).
        private: Make a new repository of the Hub private.
    """
    from resnets.weights.push import push

    say(f"pushed {weights}: {push(weights, to, licence=licence, private=private)}")
    return 0

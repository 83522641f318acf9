"""`resnets data`: look after stored sets of images."""

from __future__ import annotations

from typing import Annotated

import tyro

from resnets.cli.data.check import Check
from resnets.cli.data.pack import Pack


def command(
    task: tyro.conf.OmitSubcommandPrefixes[
        tyro.conf.OmitArgPrefixes[
            Annotated[Pack, tyro.conf.subcommand("pack")]
            | Annotated[Check, tyro.conf.subcommand("check")]
        ]
    ],
) -> int:
    """Look after stored sets of images: check one, or pack it."""
    return task.run()

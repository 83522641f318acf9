"""`resnets data`: check or pack a stored data set."""

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
    """Check a stored data set, or pack it."""
    return task.run()

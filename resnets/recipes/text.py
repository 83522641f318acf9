"""Text, character by character."""

from __future__ import annotations

from resnets.config import DataSpec, EvalSpec, OptimSpec, Recipe, ScheduleSpec
from resnets.models import catalog


def text(net: str = "transformer4") -> Recipe:
    """The next character of Shakespeare's sonnets, embedded, or of any UTF-8 file (--data FILE).

    Command: resnets train text. Hardware and time: minutes on one CPU core, see docs/text.md.
    Expected: about 2.5 bits per character on the end of the text; the frequencies of characters
    alone give 4.5. Reached here: see docs/text.md.
    """
    return Recipe(
        name="text",
        task="text",
        transformer=catalog.transformer_spec(net),
        data=DataSpec(source="sonnets", val_fraction=0.1, test_fraction=0.1),
        optim=OptimSpec(kind="adamw", lr=0.003, weight_decay=0.1, clip_norm=1.0),
        schedule=ScheduleSpec(kind="one-cycle", warmup=0.1),
        duration="20ep",
        batch_size=16,
        log_every="1ep",
        eval=EvalSpec(every="2ep"),
        checkpoint_every="5ep",
        precision="float32",
    )

"""Class folders of digits, and a recipe that trains on them in a second."""

from pathlib import Path

from digit_sets import digit_files

from resnets.config import DataSpec, EvalSpec, ModelSpec, OptimSpec, Recipe


def write_tree(root: Path, first: int = 0, count: int = 12, classes: int = 3) -> Path:
    """Class folders with `count` digits of each class, from the `first` of it on."""
    seen = [0] * classes
    for number, (data, digit) in enumerate(digit_files(first + count, classes)):
        seen[digit] += 1
        if seen[digit] > first:
            folder = root / f"digit{digit}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:03d}.png").write_bytes(data)
    return root


def recipe(tree: Path, duration: str = "8it", **changes: object) -> Recipe:
    return Recipe(
        name="tiny",
        model=ModelSpec(
            name="tiny", depths=(1,), widths=(4,), stem="cifar", stem_width=4, input_size=16
        ),
        data=DataSpec(source=str(tree), size=16, **changes),
        batch_size=8,
        duration=duration,
        checkpoint_every="4it",
        log_every="4it",
        eval=EvalSpec(every="4it"),
        optim=OptimSpec(lr=0.1),
        precision="float32",
    )

"""Disk space of what the package and its extras install, of the packages in this environment.

    python benchmarks/install_size.py [--record install-size]

A row for the base installation, for torch with what it needs, for NVIDIA's libraries and
Triton, for each extra (number and size of the packages that it adds to the base installation; one
that two extras share is counted in both) and for all extras. Names those that are not installed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from recording import Cell, make_parser, report

MB = 1e6
PURPOSES = {
    "hub": "Parquet, Arrow and the Hugging Face Hub, embeddings as Parquet, Keras weights",
    "detect": "COCO metrics, masks, class names from YAML files",
    "deploy": "ONNX and OpenVINO artifacts, int8",
    "executorch": "[export for phones](export.md#on-phones)",
    "serve": "`resnets serve`",
    "ray": "`predict --engine ray`",
    "heic": "HEIC and HEIF images",
    "tiff": "TIFF files with any number of channels",
    "check": "detection of likely label errors in `resnets folds`",
    "tune": "`resnets tune`",
    "wandb": "logging to Weights & Biases",
    "mlflow": "logging to MLflow",
    "tensorboard": "TensorBoard event files",
    "s3": "checkpoints at `s3://`",
    "gs": "checkpoints at `gs://`",
    "docs": "building this site (`make docs`)",
    "bench": "libraries that `benchmarks/` compares with, besides those of `deploy`",
    "dev": "tests, linters and benchmarks; includes most other extras",
}


@cache
def find(name: str) -> Distribution | None:
    """The installed package of a name."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def required(names: Iterable[tuple[str, str]]) -> tuple[set[str], set[str]]:
    """The packages that (name, extra) need, themselves included, and those not installed."""
    todo, seen = list(names), set[tuple[str, str]]()
    missing = set[str]()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        package = find(name)
        if package is None:
            missing.add(name)
            continue
        for line in package.requires or ():
            each = Requirement(line)
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(each.name)
                todo += [(needed, ""), *((needed, wanted) for wanted in each.extras)]
    return {name for name, _ in seen} - missing, missing


def size(names: Iterable[str]) -> float:
    """The disk space of packages in MB, in the blocks of the file system."""
    total = 0
    for name in names:
        package = find(name)
        assert package is not None
        files = {package.locate_file(file).resolve() for file in package.files or ()}  # type: ignore[attr-defined]
        total += sum(512 * path.stat().st_blocks for path in files if path.is_file())
    return total / MB


def row(
    what: str, purpose: str | None, names: set[str], missing: Collection[str] = ()
) -> list[Cell]:
    """The cells of some packages; names those that are not installed."""
    space = size(names)
    text = f"{space / 1000:.2f} GB" if space >= 1000 else f"{space:.0f} MB"
    if missing:
        text += f", without {', '.join(sorted(missing))}"
    return [what, purpose, len(names), text]


def main() -> None:
    """Measure all."""
    args = make_parser(__doc__).parse_args()
    base, _ = required([("resnets", "")])
    torch = required([("torch", ""), ("torchvision", "")])[0] - {"numpy", "pillow"}
    nvidia = {name for name in torch if name.startswith(("nvidia", "triton", "cuda"))}
    base.discard("resnets")
    rows = [
        row("the base installation", None, base),
        row("torch and torchvision in it", None, torch),
        row("NVIDIA's libraries and Triton in that", None, nvidia),
    ]
    everything, lacking = set(base), set[str]()
    package = find("resnets")
    assert package is not None
    extras = package.metadata.get_all("Provides-Extra") or ()
    for extra in dict.fromkeys([*(each for each in PURPOSES if each in extras), *extras]):
        names, missing = required([("resnets", extra)])
        names -= {"resnets"}
        everything |= names
        lacking |= missing
        rows.append(row(f"`{extra}`", PURPOSES.get(extra), names - base, missing))
    rows.append(row("all of them", None, everything, lacking))
    report(args.record, ["extra", "for", "packages", "disk space"], rows)


if __name__ == "__main__":
    main()

"""Disk space of what the package and its extras install, of the packages in this environment.

    python benchmarks/install_size.py

Prints a line for the base installation, for torch with what it needs, for NVIDIA's libraries and
Triton, for each extra (number and size of the packages that it adds to the base installation; one
that two extras share is counted in both) and for all extras. Names those that are not installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MB = 1e6


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


def main() -> None:
    """Measure and print JSON lines."""
    base, _ = required([("resnets", "")])
    torch = required([("torch", ""), ("torchvision", "")])[0] - {"numpy", "pillow"}
    nvidia = {name for name in torch if name.startswith(("nvidia", "triton", "cuda"))}
    base.discard("resnets")
    for what, names in (("base", base), ("torch", torch), ("NVIDIA and Triton", nvidia)):
        print(json.dumps({"what": what, "packages": len(names), "MB": round(size(names))}))
    everything = set(base)
    package = find("resnets")
    assert package is not None
    for extra in package.metadata.get_all("Provides-Extra") or ():
        names, missing = required([("resnets", extra)])
        names -= {"resnets"}
        everything |= names
        line = {"extra": extra, "packages": len(names - base), "MB": round(size(names - base))}
        print(json.dumps({**line, "not installed": sorted(missing)}))
    print(json.dumps({"what": "all", "packages": len(everything), "MB": round(size(everything))}))


if __name__ == "__main__":
    main()

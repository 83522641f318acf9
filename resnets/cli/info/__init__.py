"""`resnets info`: layers, parameters, multiply-adds and diagrams of models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from resnets.cli.options import Flag, refuse_unread
from resnets.config import ConfigError, ModelSpec
from resnets.config.ranges import check_range
from resnets.utils.printable import echo

if TYPE_CHECKING:
    from resnets.models import ImageClassifier

BLOCK = "block:"  # prefix of a building block's name, for --diagram


def command(
    models: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL ...")
    ] = (),
    /,
    as_json: Annotated[Flag, tyro.conf.arg(name="json")] = False,
    diagram: Path | None = None,
    size: int | None = None,
    classes: int | None = None,
    all_blocks: Annotated[Flag, tyro.conf.arg(name="all")] = False,
    kernels: Flag = False,
    devices: Flag = False,
) -> int:
    """Show the layers of models with output shapes, parameters and multiply-adds, or draw them.

    Args:
        models: Names of models; none lists the catalog. For --diagram also block:basic,
            block:bottleneck, block:preact-basic and block:preact-bottleneck (Fig. 2 and 5).
        as_json: Print a list with one object per model instead of tables.
        diagram: Draw the models side by side (Fig. 3), or the blocks, into this .svg file.
        size: Side of the input in pixels; default: that of the published model.
        classes: Number of classes; default: that of the published model.
        all_blocks: List every block; by default consecutive equal blocks are listed once.
        kernels: Show which compiled CPU kernels are in use here, and why others are not.
        devices: Show the devices of this machine, the precisions that they compute in, and the
            versions that results depend on.
    """
    given = dict(locals())
    if devices:
        refuse_unread(command, given, "devices as_json", "cannot be combined with --devices")
        _print_devices(as_json)
        return 0
    if kernels:
        refuse_unread(command, given, "kernels as_json", "cannot be combined with --kernels")
        _print_kernels(as_json)
        return 0
    if not models or as_json or diagram is not None:
        read = "models as_json diagram size classes"
        refuse_unread(command, given, read, "only for the tables of the models that are given")
    check_range("--size", size, "[1, inf)")
    if diagram is not None and not models:
        raise ConfigError("--diagram: give the models or blocks to draw")
    if any(name.startswith(BLOCK) for name in models):
        read = "models as_json diagram"
        refuse_unread(command, given, read, "blocks are drawn without sizes or classes")
        _draw_blocks(models, diagram, as_json)
        return 0
    from resnets.models import build, catalog
    from resnets.models.cost import shapes_only

    changes = {"input_size": size, "num_classes": classes}
    changes = {field: value for field, value in changes.items() if value is not None}
    specs = [catalog.spec(name, **changes) for name in models or catalog.list_models()]
    if not models and not as_json:
        _print_catalog(specs, changed=bool(changes))
        return 0
    with shapes_only():
        built = [build(spec) for spec in specs]
        if diagram is not None:
            _draw_models(built, diagram)
        if as_json:
            print(json.dumps([_model_to_json(model) for model in built], indent=2))  # noqa: T201
        elif diagram is None:
            from resnets.cli.info import tables

            tables.print_models(built, folded=not all_blocks, published=not changes)
    return 0


def _print_devices(as_json: bool) -> None:
    import torch

    from resnets.utils.machine import environment
    from resnets.utils.machine.precision import DTYPES, pick_precision, supports_precision

    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    names += ["mps"] if torch.backends.mps.is_available() else []
    rows = []
    for device in map(torch.device, [*names, "cpu"]):
        row = {"name": environment.device_name(device), **environment.accelerator(device)}
        supported = [each for each in DTYPES if supports_precision(each, device)]
        auto = pick_precision("auto", device)
        rows.append({"device": str(device), **row, "precisions": supported, "auto": auto})
    if as_json:
        print(json.dumps({"torch": torch.__version__, "devices": rows}, indent=2))  # noqa: T201
        return
    echo(f"torch {torch.__version__}")
    for row in rows:
        echo(f"{row.pop('device')}: {row.pop('name')}")
        row["precisions"] = ", ".join(row["precisions"])
        if "gpu_memory" in row:
            row["gpu_memory"] = f"{row['gpu_memory'] / 2**30:.1f} GiB"
        for key, value in row.items():
            echo(f"  {key.replace('_', ' ')}: {value}")


def _print_kernels(as_json: bool) -> None:
    from resnets.data.decode import jpeg
    from resnets.ops import compiler, conv_weight_grad

    rows = []
    for name in compiler.KERNELS:
        if name in conv_weight_grad.KERNELS.values() and conv_weight_grad.why_unused(name):
            kernel = compiler.Kernel(name, None, conv_weight_grad.why_unused(name))
        else:
            kernel = compiler.load_kernel(name)
        if name == "jpeg" and kernel.library is not None and not jpeg.available():
            kernel = compiler.Kernel(name, None, "needs a supported version of libjpeg-turbo")
        used = kernel.library is not None
        rows.append({"kernel": name, "used": used, "reason": kernel.reason, "note": kernel.note})
    if as_json:
        print(json.dumps(rows, indent=2))  # noqa: T201
        return
    for row in rows:
        note = f" (compiled by each process: {row['note']})" if row["note"] else ""
        echo(f"{row['kernel']:<20} {'used' if row['used'] else 'not used: '}{row['reason']}{note}")


def _print_catalog(specs: Sequence[ModelSpec], *, changed: bool) -> None:
    """Print the catalog, with the costs that ship, or computed if the specs are `changed`."""
    from resnets.cli.info import tables
    from resnets.models import build, cost

    if not changed:
        known = cost.load_catalog_costs()
        tables.print_catalog([(spec, *known[spec.name]) for spec in specs])
        return
    with cost.shapes_only():
        counted = [cost.count_cost(build(spec)) for spec in specs]
    rows = zip(specs, counted, strict=True)
    tables.print_catalog([(spec, each.parameters, each.multiply_adds) for spec, each in rows])


def _model_to_json(model: ImageClassifier) -> dict[str, Any]:
    """Describe a model for --json; `output_shape` has no batch dimension: (C, H, W) or (K,)."""
    from resnets.models import cost

    counted = cost.count_cost(model)
    return {
        "name": model.spec.name,
        "parameters": counted.parameters,
        "multiply_adds": counted.multiply_adds,
        "input_size": counted.input_size,
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "output_shape": list(layer.output),
                "parameters": layer.parameters,
                "multiply_adds": layer.multiply_adds,
            }
            for layer in counted.layers
        ],
    }


def _draw_models(models: Sequence[ImageClassifier], path: Path) -> None:
    from resnets.diagrams.draw import model_diagram, save_diagram

    save_diagram(model_diagram(models), path)
    _print_drawn([model.spec.name for model in models], path)


def _draw_blocks(names: Sequence[str], path: Path | None, as_json: bool) -> None:
    from resnets.diagrams.draw import block_diagram, save_diagram

    models = [name for name in names if not name.startswith(BLOCK)]
    if models:
        raise ConfigError(f"{models[0]}: models and blocks must be drawn into separate files")
    if path is None or as_json:
        raise ConfigError(
            f"{names[0]}: a block can only be drawn; use --diagram FILE.svg and no --json"
        )
    save_diagram(block_diagram([name.removeprefix(BLOCK) for name in names]), path)
    _print_drawn(names, path)


def _print_drawn(names: Sequence[str], path: Path) -> None:
    # On stderr: with --json, stdout has only the list.
    echo(f"drew {', '.join(names)}: {path}", error=True)

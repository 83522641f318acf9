"""`resnets predict` for detectors and segmenters."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnets.cli.predict.inputs import Inputs, make_folder, unique_path
from resnets.utils.files.csv import CsvWriter
from resnets.utils.printable import Table, echo, escape, terminal_console

if TYPE_CHECKING:
    from resnets.detect.models.predictor import Prediction
    from resnets.detect.outputs import Output


def predict(
    weights: str,
    inputs: Inputs,
    *,
    threshold: float,
    as_json: bool,
    as_csv: bool,
    draw: Path | None,
    device: str,
    precision: str,
) -> int:
    """Detect objects or segment images; returns 1 if any image is unreadable."""
    from resnets.api.tasks.detect import predict_objects

    if draw is not None:
        draw = make_folder(draw, "--draw")
    names, predictions = predict_objects(
        weights,
        inputs.list_images(),
        threshold=threshold,
        device=device,
        precision=precision,
        quiet=as_json,
    )
    if draw is not None:
        predictions = _save_drawings(predictions, draw)
    outputs: list[tuple[str, Output]] = []
    errors: list[str] = []
    for each in predictions:
        if each.output is None:
            errors.append(str(each.error))
        else:
            outputs.append((inputs.name(each.path), each.output.without_pixels()))
    _write(outputs, names, draw, as_json=as_json, as_csv=as_csv)
    for error in errors:
        inputs.report(error)
    return 1 if inputs.failed else 0


def _write(
    outputs: Sequence[tuple[str, Output]],
    names: Sequence[str],
    draw: Path | None,
    *,
    as_json: bool,
    as_csv: bool,
) -> None:
    from resnets.config import dump_json
    from resnets.detect.evaluate.write import coco_document

    objects = [each.objects for _, each in outputs if each.objects is not None]
    document = None
    if len(objects) == len(outputs) and (draw is not None or as_json):
        paths, sizes = [path for path, _ in outputs], [each.size for _, each in outputs]
        document = coco_document(paths, sizes, objects, names)
    if draw is not None and document is not None:
        dump_json(document, draw / "detections.json", indent=None)
    if as_json:
        pixels = [{"path": path, "pixels": each.counts(names)} for path, each in outputs]
        print(json.dumps(pixels if document is None else document))  # noqa: T201
    elif as_csv:
        _print_csv(outputs, names)
    else:
        _print_table(outputs, names)


def _save_drawings(predictions: Iterable[Prediction], folder: Path) -> Iterator[Prediction]:
    """Save a drawing of each prediction as <image name>.seen.png in `folder`, and yield it."""
    from resnets.detect.draw import save_drawing

    written: Counter[str] = Counter()
    for each in predictions:
        if each.output is not None:
            save_drawing(each.draw(), unique_path(folder, each.path.name, ".seen.png", written))
        yield each
    echo(f"wrote {written.total():,} drawings to {folder}", error=True)


def _print_csv(outputs: Sequence[tuple[str, Output]], names: Sequence[str]) -> None:
    writer = CsvWriter(sys.stdout)
    if any(each.objects is None for _, each in outputs):
        writer.writerow(["path", "class", "pixels"])
        for path, each in outputs:
            writer.writerows([path, *entry] for entry in each.counts(names).items())
        return
    writer.writerow(["path", "class", "score", "left", "top", "right", "bottom"])
    for path, each in outputs:
        objects = each.objects
        assert objects is not None
        for row, box in enumerate(objects["boxes"].tolist()):
            label, score = int(objects["labels"][row]), objects["scores"][row]
            writer.writerow([path, names[label], f"{score:.4f}", *(f"{v:.1f}" for v in box)])


def _print_table(outputs: Sequence[tuple[str, Output]], names: Sequence[str]) -> None:
    table = Table()
    table.add_column("image", overflow="fold")
    table.add_column("found", overflow="fold")
    for path, each in outputs:
        counts = each.counts(names)
        if each.objects is None:
            total = each.size[0] * each.size[1]
            text = ", ".join(f"{name} {count / total:.0%}" for name, count in counts.items())
        else:
            text = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
        table.add_row(escape(path), escape(text))
    if table.row_count:
        terminal_console().print(table)  # piped lines do not wrap

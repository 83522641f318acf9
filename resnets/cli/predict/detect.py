"""`resnets predict` for detectors and segmenters."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from resnets.config import ConfigError
from resnets.utils.csv_files import CsvWriter
from resnets.utils.printable import console as terminal_console
from resnets.utils.printable import echo, escape

if TYPE_CHECKING:
    from resnets.cli.predict.inputs import Inputs
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
    from resnets.api.detect import predict_objects
    from resnets.data.dataset.summary import announce_folders
    from resnets.data.files.walk import LeftOut
    from resnets.evaluate.predict import find_images

    if draw is not None:
        if draw.exists() and not draw.is_dir():
            raise ConfigError(f"--draw {draw}: is a file, not a folder")
        draw.mkdir(parents=True, exist_ok=True)
    paths = find_images(inputs.paths, left_out := LeftOut())
    announce_folders(inputs.paths, len(paths), left_out)
    names, seen, unreadable = predict_objects(
        weights, paths, threshold=threshold, device=device, precision=precision, quiet=as_json
    )
    if draw is not None:
        seen = _drawn(seen, names, draw)
    kept = [(inputs.name(each.path), each.output.without_pixels()) for each in seen]
    _write(kept, names, draw, as_json=as_json, as_csv=as_csv)
    for error in unreadable.messages:
        echo(f"resnets predict: {inputs.named(error)}", error=True)
    return 1 if len(unreadable) or inputs.failed else 0


def _write(
    seen: Sequence[tuple[str, Output]],
    names: Sequence[str],
    draw: Path | None,
    *,
    as_json: bool,
    as_csv: bool,
) -> None:
    from resnets.config import dump_json
    from resnets.detect.evaluate.write import coco_document

    found = [each.objects for _, each in seen if each.objects is not None]
    document = None
    if len(found) == len(seen) and (draw is not None or as_json):
        paths, sizes = [path for path, _ in seen], [each.size for _, each in seen]
        document = coco_document(paths, sizes, found, names)
    if draw is not None and document is not None:
        dump_json(document, draw / "detections.json", indent=None)
    if as_json:
        shares = [{"path": path, "pixels": each.counts(names)} for path, each in seen]
        print(json.dumps(shares if document is None else document))  # noqa: T201
    elif as_csv:
        _print_csv(seen, names)
    else:
        _print_table(seen, names)


def _drawn(seen: Iterable[Prediction], names: Sequence[str], folder: Path) -> Iterator[Prediction]:
    """Save a drawing of each prediction as <image name>.seen.png in `folder`, and yield it."""
    from resnets.detect.draw import save_drawing

    written: Counter[str] = Counter()
    for each in seen:
        stem = each.path.name
        written[stem] += 1
        again = f".{written[stem]}" if written[stem] > 1 else ""
        save_drawing(each.draw(names), folder / f"{stem}{again}.seen.png")
        yield each
    echo(f"wrote {written.total():,} drawings to {folder}", error=True)


def _print_csv(seen: Sequence[tuple[str, Output]], names: Sequence[str]) -> None:
    writer = CsvWriter(sys.stdout)
    if any(each.objects is None for _, each in seen):
        writer.writerow(["path", "class", "pixels"])
        for path, each in seen:
            writer.writerows([path, *entry] for entry in each.counts(names).items())
        return
    writer.writerow(["path", "class", "score", "left", "top", "right", "bottom"])
    for path, each in seen:
        found = each.objects
        assert found is not None
        for row, box in enumerate(found["boxes"].tolist()):
            label, score = int(found["labels"][row]), found["scores"][row]
            writer.writerow([path, names[label], f"{score:.4f}", *(f"{v:.1f}" for v in box)])


def _print_table(seen: Sequence[tuple[str, Output]], names: Sequence[str]) -> None:
    table = Table()
    table.add_column("image", overflow="fold")
    table.add_column("found", overflow="fold")
    for path, each in seen:
        counts = each.counts(names)
        if each.objects is None:
            total = each.size[0] * each.size[1]
            text = ", ".join(f"{name} {count / total:.0%}" for name, count in counts.items())
        else:
            text = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
        table.add_row(escape(path), escape(text))
    if table.row_count:
        terminal_console().print(table)  # piped lines do not wrap

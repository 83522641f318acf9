"""What the package itself writes and reads again: runs, studies, bulk predictions; and requests."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import torch
from small_models import RESIDUAL, small_net

from fuzzing.readers import Reader
from fuzzing.readers_sets import encoded_images
from resnets import recipes
from resnets.bulk.image_index import index_dataset
from resnets.bulk.images import open_dataset
from resnets.bulk.plan import SUMMARY, Checksums, Manifest, RowOptions
from resnets.config import Recipe, dump_json, from_toml, to_toml
from resnets.data.decode.open_image import CLIENT_FORMATS, open_image
from resnets.data.splits import check_results
from resnets.evaluate.data.ground_truth import read_labels
from resnets.report.run import write_run_report
from resnets.serve.http.limits import RequestError
from resnets.serve.http.parse_body import parse_json, parse_multipart
from resnets.study.depth.summary import merge_environments
from resnets.study.grid.cells import Grid, read_cells, write_grid
from resnets.train.log.run_log import RunLog, read_rows
from resnets.train.log.timing import STAGES, stage_summary
from resnets.utils.files import locks
from resnets.weights.heads import parse_classes
from resnets.weights.push import find_result, render_card

ENVIRONMENT = {"torch": "2.11", "packages": {"numpy": "2"}, "threads": 2, "cpu_quota": None}
RESULT = {
    "history": [{"step": 0, "note": "a note"}],
    "test": {
        "top1_error": 4.25,
        "top5_error": 0.0,
        "loss": 0.1,
        "examples": 12,
        "protocol": "1 view",
    },
    "val": {
        "top1_error": 5.0,
        "top5_error": 1.0,
        "loss": 0.2,
        "examples": 10,
        "protocol": "1 view",
    },
    "data": "digits",
    "checkpoint": "best.safetensors",
    "seconds": 3.5,
    "images_per_second": 900.0,
}


def _rows() -> list[dict[str, object]]:
    figures = {"loss": 1.5, "top1_error": 40.0, "lr": 0.1, "images_per_second": 900.0}
    shares = dict.fromkeys(STAGES, 0.25)
    threads = {"decode_threads": 2, "decode_busy": 0.5, "decode_cpu": 0.5, "packed": False}
    stages = {"kind": "time", "step": 4, "epoch": 1.0, "seconds": 2.0, **shares, **threads}
    rows: list[dict[str, object]] = [
        {"kind": kind, "step": step, "epoch": step / 4, "seconds_per_step": 0.1, **figures}
        for step in range(1, 5)
        for kind in ("train", "val")
    ]
    return [*rows, stages]


def _run(root: Path) -> None:
    root.mkdir(parents=True)
    (root / "recipe.toml").write_text(to_toml(Recipe(name="pets")))
    (root / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _rows()))
    dump_json(RESULT, root / "result.json")
    dump_json(ENVIRONMENT, root / "environment.json")


def write_runs(folder: Path) -> None:
    _run(folder / "run" / "run")


def rows(root: Path) -> object:
    return read_rows(root / "run")


def report(root: Path) -> object:
    """The page that is written when a resumed run ends."""
    rows = read_rows(root / "run")
    summary = stage_summary(rows)
    return write_run_report(
        root / "run", Recipe(), RESULT, rows, stages=STAGES, stage_summary=summary
    )


def resumed_log(root: Path) -> object:
    RunLog(root / "run", 10, 3, quiet=True).close()
    return read_rows(root / "run")


def result(root: Path) -> object:
    """The model card of it."""
    return render_card(small_net(RESIDUAL), find_result(root / "run"), "out", None)


def environments(root: Path) -> object:
    return merge_environments([root / "run"])


def write_recipes(folder: Path) -> None:
    for name in ("digits", "detect", "finetune"):
        (folder / name).mkdir()
        (folder / name / "recipe.toml").write_text(to_toml(recipes.recipe(name)))
    (folder / "plain").mkdir()
    (folder / "plain" / "recipe.toml").write_text(to_toml(Recipe(name="pets")))


def recipe(root: Path) -> object:
    return from_toml(root / "recipe.toml")


def stored_recipe(root: Path) -> object:
    return from_toml(root / "recipe.toml", stored=True)


def write_studies(folder: Path) -> None:
    nets = ("cifar-resnet8", "cifar-plain8")
    root = folder / "study" / "study"
    grid = Grid(
        models=nets,
        seeds=(2, 1),
        data="digits",
        recipe="digits",
        budget="4it",
        iterations=4,
        epoch=4,
    )
    write_grid(grid, root)
    for number, (net, seed) in enumerate(grid.runs):
        cell = root / "cells" / f"{net}-seed{seed}"
        _run(cell)
        if number == 2:
            (cell / "result.json").unlink()
            dump_json({"error": "the loss is nan"}, cell / "failed.json")


def study(root: Path) -> object:
    return [(cell.kind, cell.depth, cell.last("val")) for cell in read_cells(root / "study")]


def write_bulk(folder: Path) -> None:
    root = folder / "bulk"
    images = root / "images"
    images.mkdir(parents=True)
    for number, (_, data) in enumerate(encoded_images()):
        (images / f"{number}.png").write_bytes(data)
    (root / "work").mkdir()
    found = index_dataset(str(images), root / "work")
    shutil.rmtree(images)
    options = RowOptions("csv", 2, 3, 8, "torch", "float32", "cpu")
    Manifest("x", found.count, "a" * 64, "m", "b" * 64, options).save(root)
    dump_json({"sha256": {"0.csv": "c" * 64}}, root / SUMMARY)


def manifest(root: Path) -> object:
    found = Manifest.read(root)
    return None if found is None else [found.span(shard) for shard in range(min(found.shards, 9))]


def sums(root: Path) -> object:
    return Checksums(root).known()


def listed(root: Path) -> object:
    """The listing of images; they themselves are gone."""
    return list(open_dataset(root / "work").items(0, 3))


IMAGES = [f"set/{number}.png" for number in range(4)]
NAMES = ("ant", "bee", "cat")


def write_truths(folder: Path) -> None:
    texts = {
        "real.json": "[[0], [1, 2], [], [2]]",
        "names.json": '["ant", "bee", ["cat", "ant"], "cat"]',
        "lines.txt": "ant\nbee\n\ncat\n",
        "table.csv": "path,label\n0.png,ant\n1.png,bee\n2.png,cat\n3.png,cat\n",
        "numbers.csv": "path,label\n0.png,0\n1.png,1\n2.png,2\n3.png,2\n",
    }
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / name).write_text(text)


def truth(root: Path) -> object:
    return read_labels(next(root.iterdir()), IMAGES, NAMES)


def write_class_names(folder: Path) -> None:
    (folder / "names").mkdir()
    (folder / "names" / "names.txt").write_text("ant\nbee\n\ncat\n")


def class_names(root: Path) -> object:
    return parse_classes(str(root / "names.txt"), 3, "the network")


def write_records(folder: Path) -> None:
    (folder / "record").mkdir()
    record = {
        "version": check_results.VERSION,
        "source": "SOURCE",
        "checked": "2026-11-30",
        "listing": "a" * 40,
        "quarantine": "/tmp/quarantine.txt",
        "pairs": [["a.png", "b.png", True], ["c.png", "d.png", False]],
    }
    (folder / "record" / "record.json").write_text(json.dumps(record))


def record(root: Path) -> object:
    place = check_results._record_path(str(root))
    place.parent.mkdir(parents=True, exist_ok=True)
    data = (root / "record.json").read_bytes()
    place.write_bytes(data.replace(b"SOURCE", check_results._source_key(str(root)).encode()))
    return check_results.read_record(str(root))


def write_locks(folder: Path) -> None:
    (folder / "lock").mkdir()
    held = {"pid": 12, "host": "here", "command": "resnets train", "since": "2026-11-30"}
    (folder / "lock" / "lock.json").write_text(json.dumps(held))


def lock(root: Path) -> object:
    return locks._describe_owner(root / "lock.json")


BOUNDARY = b"simple"


def write_requests(folder: Path) -> None:
    images = [data for _, data in encoded_images(2)]
    texts = [base64.b64encode(data).decode() for data in images]
    parts = b"".join(
        b'--simple\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n%s\r\n'
        % data
        for data in images
    )
    bodies = {
        "json": json.dumps({"images": texts}).encode(),
        "url": json.dumps({"image": f"data:image/png;base64,{texts[0]}"}).encode(),
        "multipart": parts + b"--simple--\r\n",
        "raw": images[0],
    }
    for name, body in bodies.items():
        (folder / name).mkdir()
        (folder / name / f"{name}.body").write_bytes(body)


def request(root: Path) -> object:
    """A body by its kind; what is refused becomes an answer."""
    path = next(root.iterdir())
    body = path.read_bytes()
    try:
        if path.stem in ("json", "url"):
            found = parse_json(body, 8).images
        else:
            found = (
                parse_multipart(body, BOUNDARY, 8).images if path.stem == "multipart" else [body]
            )
    except RequestError:
        return []
    return [_size(each) for each in found]


def _size(data: bytes) -> object:
    from resnets.data.decode.decode import reading_image

    with reading_image("request"), open_image(data, CLIENT_FORMATS) as image:
        return image.size


def write_image_records(folder: Path) -> None:
    (folder / "record").mkdir()
    columns = {
        "ids": [1, 2, 3],
        "content": [4, 5, 0],
        "stems": [6, 7, 8],
        "labels": [0, 1, 1],
        "roles": [0, 1, 2],
    }
    (folder / "record" / "record.json").write_text(json.dumps(columns))


KINDS = {"labels": torch.int32, "roles": torch.int8}


def image_record(root: Path) -> object:
    """What a checkpoint says of the images of its run, with its checksum."""
    from checkpoint_files import save_checkpoint

    from resnets.data.splits.image_record import PREFIX
    from resnets.weights.checkpoint.format import read_checkpoint
    from resnets.weights.checkpoint.image_record import read_fingerprint

    try:
        columns = json.loads((root / "record.json").read_bytes())
        tensors = {
            f"{PREFIX}/{name}": torch.tensor(values, dtype=KINDS.get(name, torch.int64))
            for name, values in columns.items()
        }
    except (ValueError, TypeError, AttributeError, RuntimeError, OverflowError, RecursionError):
        return None  # no such tensors
    path = root / "record.json.safetensors"
    save_checkpoint(path, tensors, {"images": {"train": 1}})
    found = read_fingerprint(read_checkpoint(path))
    return None if found is None else (found.counts(), found.merged(found))


READERS = (
    Reader("rows of runs", write_runs, (rows, resumed_log), ("*/metrics.jsonl",), share=20),
    Reader("result of a run", write_runs, (result,), ("*/result.json",), share=15),
    Reader("environment of a run", write_runs, (environments,), ("*/environment.json",), share=10),
    Reader(
        "report of a run",
        write_runs,
        (report,),
        ("*/environment.json", "*.jsonl"),
        share=10,
        slow=True,
    ),
    Reader("recipes", write_recipes, (recipe, stored_recipe), share=40),
    Reader("studies", write_studies, (study,), ("*.toml", "*.json", "*.jsonl"), share=30),
    Reader("bulk predictions", write_bulk, (manifest, sums, listed), share=30),
    Reader("labels to evaluate", write_truths, (truth,), share=30),
    Reader("class names", write_class_names, (class_names,), share=10),
    Reader("records of checks", write_records, (record,), share=10),
    Reader("records of images", write_image_records, (image_record,), share=15),
    Reader("locks", write_locks, (lock,), share=5),
    Reader("requests", write_requests, (request,), share=30, names=False),
)

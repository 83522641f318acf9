"""Add the network of a run to the models that ship with the package, as resnets:DATA/MODEL.

    python benchmarks/zoo.py RUN digits/cifar-resnet20 --data digits \
        --command "resnets train digits" --license MIT --note "..."

Weights of convolutions and linear layers are rounded to float16, the rounded model is evaluated on
the test images of the run, and its folder (weights, config.json, model card) is written to
resnets/weights/zoo/DATA/MODEL, with SHA-256 and metrics in the index, from which the table of
docs/results/zoo.json is written. With --url the folder is written to --out instead, to be uploaded
to that URL. To replace a model, remove its folder first.
"""

import argparse
import dataclasses
import datetime
import hashlib
import json
import sys
from pathlib import Path

import torch

import resnets
from resnets.config import dump_json
from resnets.evaluate.measure import Measurement
from resnets.models import ImageClassifier
from resnets.weights import zoo
from resnets.weights.push import CARD, HUBCONF, publish

DTYPE = torch.float16
LIMIT = 8 << 20  # bytes of a model in the package


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("name", help="DATA/MODEL")
    parser.add_argument("--data", required=True, help="data set of the run")
    parser.add_argument("--command", required=True, help="command that trained it")
    parser.add_argument("--license", required=True, help="of the weights, as named on the Hub")
    parser.add_argument("--note", action="append", default=[], help="paragraph for the card")
    parser.add_argument(
        "--url", help="URL of the folder, for files that are too large for the package"
    )
    parser.add_argument("--out", type=Path, default=zoo.FOLDER)
    args = parser.parse_args()
    if (args.out / args.name).exists():
        parser.error(f"{args.out / args.name} exists; remove it to replace the model")
    entry = add(
        args.run,
        args.name,
        data=args.data,
        command=args.command,
        license=args.license,
        notes=args.note,
        url=args.url,
        out=args.out,
    )
    print(f"{entry.name}: {entry.top1_error:.2f}% ({entry.protocol})")
    write_table()


def add(
    run: str,
    name: str,
    *,
    data: str,
    command: str,
    license: str,
    notes: list[str],
    url: str | None = None,
    out: Path = zoo.FOLDER,
    index: Path = zoo.FOLDER,
) -> zoo.ZooEntry:
    """Write the folder of the model below `out`, and its entry in the index in folder `index`."""
    model = round_weights(resnets.load(run))
    model.origin = f"resnets:{name}"
    measured = resnets.evaluate(model, data, precision="float32", quiet=True)
    assert isinstance(measured, Measurement)
    model = model.to(
        memory_format=torch.contiguous_format
    )  # as files are loaded, for equal outputs
    evaluation = measured.evaluation
    assert model.recipe is not None
    source = name.partition("/")[0]  # not a path of the machine that trained it
    model.recipe = dataclasses.replace(
        model.recipe,
        data=dataclasses.replace(model.recipe.data, source=source),
        checkpoint_url=None,
    )
    result = {"data": source, "test": evaluation.to_json()}
    card_notes = [
        f"Trained with `{command}` (resnets {resnets.__version__}).\n"
        "Weights of convolutions and linear layers are stored as float16; the results are those of "
        "the stored\nweights.",
        *notes,
    ]
    folder = out / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    publish(
        model,
        result,
        str(folder),
        license=license,
        dtype=DTYPE,
        notes=card_notes,
        load_name=model.origin,
    )
    (folder / HUBCONF).unlink()  # for torch.hub, which reads repositories
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != CARD
    }
    size = sum(path.stat().st_size for path in folder.iterdir())
    if url is None and size > LIMIT:
        raise SystemExit(f"{name}: {size:,} bytes are too many for the package; give --url")
    entry = zoo.ZooEntry(
        name=name,
        sha256=digests,
        url=url,
        top1_error=evaluation.top1_error,
        examples=evaluation.examples,
        protocol=evaluation.protocol,
        data=source,
        command=command,
        license=license,
    )
    path = index / zoo.INDEX
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    fields = dataclasses.asdict(entry)
    known[fields.pop("name")] = fields
    dump_json(dict(sorted(known.items())), path)
    return entry


def write_table() -> None:
    """Replace the rows of docs/results/zoo.json by those of the package's index."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs"))
    import result_tables

    rows: list[list[str | float | None]] = [
        [f"`resnets:{name}`", f"{entry.top1_error:.2f}%", entry.examples, f"`{entry.command}`"]
        for name, entry in sorted(zoo.read_index().items())
    ]
    result = dataclasses.replace(
        result_tables.load("zoo"),
        commit=result_tables.head_commit(),
        date=datetime.date.today().isoformat(),
        rows=rows,
    )
    result_tables.save(result)


def round_weights(model: ImageClassifier) -> ImageClassifier:
    """Round the weights of `model` to the values that are stored."""
    with torch.no_grad():
        for tensor in model.state_dict().values():  # parameters and the filters of a whitening stem
            if tensor.dim() > 1:
                tensor.copy_(tensor.to(DTYPE))
    return model


if __name__ == "__main__":
    main()

"""`resnets features`: embeddings of images as Parquet, and the nearest images of one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from resnets.cli.options import Flag, refuse_unread
from resnets.cli.process import log_to_stderr
from resnets.config import ConfigError
from resnets.config.ranges import check_range
from resnets.config.recipe import Precision
from resnets.utils.files.local_paths import output_path
from resnets.utils.printable import Table, echo, escape, terminal_console

if TYPE_CHECKING:
    from resnets.evaluate.features import Embedding


def command(
    weights: tyro.conf.Positional[str],
    data: tyro.conf.Positional[str],
    /,
    model: str | None = None,
    out: Path | None = None,
    nearest: Path | None = None,
    top_k: int = 5,
    split: Literal["all", "test", "val", "train"] = "all",
    as_json: Annotated[Flag, tyro.conf.arg(name="json")] = False,
    device: str = "auto",
    precision: Precision = "auto",
) -> int:
    """Compute embeddings: the features of the last stage, averaged over positions.

    Exits with 1 if any image is unreadable.

    Args:
        weights: Run folder, checkpoint, weights file, or published weights (see docs/weights.md).
        data: Data set (name, folder of class folders, tar, ...), any folder of images, with or
            without folders in it, or an image.
        model: Architecture of weights that do not specify it (a state dict); a name listed by
            `resnets info`.
        out: Parquet file to write, with columns path, label and embedding.
        nearest: Query image; its nearest images in the data are printed.
        top_k: Number of nearest images.
        split: Split of the data; if the run was trained on this data set, a split of the run.
        as_json: Print the nearest images as JSON and nothing else.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: auto is bfloat16 where the device computes it natively, float16 on GPUs with
            tensor cores but without it, else float32. tf32: GPUs from Ampere on.
    """
    given = dict(locals())
    if out is None and nearest is None:
        raise ConfigError("give --out FILE.parquet, --nearest IMAGE, or both")
    if nearest is None:
        read = "weights data model out split device precision"
        refuse_unread(command, given, read, "only for the images of --nearest")
    if out is not None:
        out = output_path(out)
        if out.suffix.lower() != ".parquet":
            raise ConfigError(f"--out {out}: must end in .parquet")
    check_range("--top-k", top_k, "[1, inf)")
    from resnets.api.features import open_features
    from resnets.evaluate.features import NearestImages, write_parquet

    log_to_stderr()
    extractor = open_features(
        weights, data, split=split, model=model, device=device, precision=precision, quiet=False
    )
    failed: list[str] = []
    computed = _report_unreadable(extractor, failed)
    search = None
    if nearest is not None:
        search = NearestImages(extractor.embed_one(nearest).vector, top_k)
        computed = search.collect(computed)
    if out is None:
        for _ in computed:
            pass
    else:
        metadata = {
            "model": extractor.network.spec.name,
            "weights": extractor.network.origin,
            "data": extractor.description,
        }
        rows = write_parquet(computed, out, metadata)
        echo(f"wrote {rows:,} embeddings to {out}", error=True)
    if search is not None:
        _print_nearest(search.best, as_json=as_json)
    return 1 if failed else 0


def _report_unreadable(embeddings: Iterable[Embedding], failed: list[str]) -> Iterator[Embedding]:
    """Yield those with a vector; print the errors of the others, and add them to `failed`."""
    for embedding in embeddings:
        if embedding.error is None:
            yield embedding
        else:
            failed.append(embedding.error)
            echo(f"resnets features: {embedding.error}", error=True)


def _print_nearest(best: Sequence[tuple[float, Embedding]], *, as_json: bool) -> None:
    if as_json:
        rows = [
            {"path": each.path, "label": each.label, "similarity": similarity}
            for similarity, each in best
        ]
        print(json.dumps(rows, indent=1))  # noqa: T201
        return
    table = Table()
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("cosine similarity", justify="right")
    for similarity, each in best:
        table.add_row(escape(each.path), escape(each.label or "-"), f"{similarity:.4f}")
    terminal_console().print(table)

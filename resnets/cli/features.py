"""`resnets features`: pictures as vectors in a Parquet file, and the nearest ones of a picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.table import Table

from resnets.cli.loading import load_options
from resnets.config import ConfigError
from resnets.utils.terminal import console as terminal_console
from resnets.utils.terminal import escape, say

if TYPE_CHECKING:
    from resnets.evaluate.features import Embedding

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def command(
    weights: tyro.conf.Positional[str],
    data: tyro.conf.Positional[str],
    /,
    model: str | None = None,
    out: Path | None = None,
    nearest: Path | None = None,
    top_k: int = 5,
    split: Literal["all", "test", "val", "train"] = "all",
    json: Flag = False,
    device: str = "auto",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
) -> int:
    """Embed pictures: the last stage, averaged over positions. Exits with 1 if any is unreadable.

    Args:
        weights: Run folder, checkpoint, file in a known format, or published weights.
        data: Data set (name, folder of class folders, tar, ...) or any folder of images, with or
            without folders in it.
        model: Network of weights that do not say it themselves (a state dict), as `resnets info`
            names it.
        out: Parquet file to write, with columns path, label and embedding.
        nearest: A picture; print the pictures of the data that are most like it.
        top_k: How many of them.
        split: Which part of the data. Shares are those of the run, where it was trained on it.
        json: Print the nearest as JSON and nothing else.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: auto is bfloat16 where the device computes it natively, else float32.
    """
    if out is None and nearest is None:
        raise ConfigError("say --out FILE.parquet, --nearest PICTURE, or both")
    if out is not None and out.suffix.lower() != ".parquet":
        raise ConfigError(f"--out {out}: embeddings are written as .parquet; name such a file")
    if top_k < 1:
        raise ConfigError(f"--top-k {top_k}: must be at least 1")
    from resnets.data.dataset.summary import announce
    from resnets.evaluate.features import Nearest, embed_picture, embeddings, write_parquet
    from resnets.evaluate.match import open_every, open_split
    from resnets.evaluate.prepare import to_device, with_progress
    from resnets.utils import environment
    from resnets.utils.cpu_count import cores
    from resnets.weights.load import load_model

    net = load_model(weights, load_options(model, None), "body")
    if split == "all":
        pictures = open_every(net, data)
    else:
        pictures = open_split(net, data, split, stored=True)
    announce(pictures)
    chosen, precise = to_device(net, device, precision)
    if not json:
        where = f"{precise} on {environment.device_name(chosen)}"
        say(f"embedding {pictures.description}, in {where}", error=True)
    failures = _Failures()
    found = embeddings(net, pictures, device=chosen, precision=precise, workers=cores())
    found = failures.drop(with_progress(found, len(pictures)))
    wanted = None
    if nearest is not None:
        wanted = Nearest(embed_picture(net, nearest, device=chosen, precision=precise), top_k)
        found = wanted.watch(found)
    if out is None:
        for _ in found:
            pass
    else:
        about = {"net": net.spec.name, "weights": net.origin, "data": pictures.description}
        rows = write_parquet(found, out, about)
        say(f"wrote {rows:,} embeddings to {out}", error=True)
    if wanted is not None:
        _print_nearest(wanted.best, as_json=json)
    return 1 if failures.count else 0


class _Failures:
    """Names unreadable pictures on stderr as they come by, and counts them."""

    count = 0

    def drop(self, embeddings: Iterable[Embedding]) -> Iterator[Embedding]:
        """Hand on the `embeddings` that have a vector."""
        for embedding in embeddings:
            if embedding.error is None:
                yield embedding
            else:
                self.count += 1
                say(f"resnets features: {embedding.error}", error=True)


def _print_nearest(best: Sequence[tuple[float, Embedding]], *, as_json: bool) -> None:
    if as_json:
        rows = [
            {"path": each.path, "label": each.label, "similarity": likeness}
            for likeness, each in best
        ]
        print(json.dumps(rows, indent=1))  # noqa: T201
        return
    table = Table()
    table.add_column("picture", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("cosine similarity", justify="right")
    for likeness, each in best:
        table.add_row(escape(each.path), escape(each.label or "-"), f"{likeness:.4f}")
    terminal_console().print(table)

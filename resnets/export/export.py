"""Export: write an artifact aside, prove it, and only then put it in its place with its card."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.config import ConfigError, dump_json, hold_name, to_dict
from resnets.data import DataError, Split
from resnets.data.dataset.summary import announce
from resnets.evaluate.match import open_pictures, open_split
from resnets.evaluate.run import Evaluation
from resnets.evaluate.truth import Truth
from resnets.evaluate.views.crops import cut
from resnets.evaluate.views.views import Views
from resnets.export.mixed_precision import keep_float
from resnets.export.verify import (
    BATCHES,
    LIMITS,
    VerificationError,
    compare,
    compare_errors,
    compare_whole,
    count,
    embedded_pictures,
)
from resnets.export.write import check, write
from resnets.models import Net
from resnets.runtime.artifact import (
    SUFFIXES,
    ArtifactMetadata,
    Kind,
    Precision,
    card_of,
    digest,
    digest_of_net,
    files_of,
    versions,
)
from resnets.runtime.open import open_artifact
from resnets.runtime.torch import TorchEngine
from resnets.weights.checkpoint.format import CheckpointError, find_checkpoint

CUT = "shorter side to `resize` px (antialiased), centre crop of `size` px"
NORMALISED = "channel order, scale to 0..1, mean and deviation"
CALIBRATION = 300  # pictures that int8 takes the ranges of activations from (NNCF's default)


@dataclass(frozen=True)
class Evidence:
    """Real pictures to prove an artifact with.

    pictures: (10 or more, size, size, C) uint8, for parity. calibration: (N, size, size, C) for
    int8. split and truth: to count errors on, and before: the net's own, counted at the first
    call; None where no data was given.
    """

    pictures: NDArray[np.uint8]
    source: str
    calibration: NDArray[np.uint8] | None = None
    split: Split | None = None
    truth: Truth | None = None
    before: Callable[[], Evaluation] | None = None


def export(
    net: Net,
    kind: Kind,
    precision: Precision,
    out: Path,
    *,
    data: str | None = None,
    max_drop: float = 0.5,
    source: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write `net` as `out` with its card beside it; returns the card.

    net: as `resnets.load` gives it. data: the set that calibrates int8 (its training part) and on
    which errors are counted (its validation part, else its test part). source: the net's file, of
    which the card gives the SHA-256. Raises ConfigError where this cannot be written, and
    `verify.Refused` where the artifact is not the net; then nothing is written.
    """
    check(kind, precision)
    if SUFFIXES.get(out.suffix.lower()) != kind:
        wanted = next(suffix for suffix, each in SUFFIXES.items() if each == kind)
        raise ConfigError(f"--out {out}: a file for {kind} ends in {wanted}")
    if precision == "int8" and data is None:
        raise ConfigError("--int8: name pictures to take its ranges from, with --calibrate DATA")
    if not max_drop >= 0:
        raise ConfigError(f"--max-drop {max_drop}: points of error, 0 or more")
    with hold_name(out):
        evidence = gather(net, data, precision)
        facts = ArtifactMetadata.of(net, kind, precision)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as aside:
            made = Path(aside, out.name)
            say(f"writing {out.name}")
            write(net, facts, made, evidence.calibration)
            say("proving it")
            proved = functools.partial(verify, net, evidence=evidence, max_drop=max_drop)
            try:
                card = proved(made)
            except VerificationError as verdict:
                if (kind, precision) != ("openvino", "int8"):
                    raise
                assert evidence.calibration is not None
                card = keep_float(net, facts, made, evidence.calibration, verdict, proved, say)
            card |= _origin(net, source)
            sums = {file.name: digest(file) for file in files_of(made)}
            dump_json({**card, "sha256": sums}, card_of(made))
            for file in (*files_of(made)[1:], card_of(made), made):
                os.replace(file, out.with_name(file.name))
        return {**card, "sha256": sums}


def verify(net: Net, path: Path, evidence: Evidence, max_drop: float) -> dict[str, Any]:
    """The evidence that the artifact at `path` computes what `net` does; else raises Refused."""
    engine = open_artifact(path)
    facts = engine.facts
    limit = LIMITS[facts.precision]
    parity = compare(net, engine, evidence.pictures, limit)
    whole = compare_whole(net, engine, limit)
    sides = (engine.size, engine.size) if whole is None else ("height", "width")
    card: dict[str, Any] = {
        "artifact": path.name,
        "runtime": facts.kind,
        "precision": facts.precision,
        "net": facts.net,
        "classes": list(facts.classes),
        "input": {
            "name": "pictures",
            "type": "uint8",
            "shape": ["batch", *sides, engine.channels],
            "is": "RGB" if engine.channels == 3 else "grey",
            "cut_already": [engine.size, engine.size],
        },
        "output": {
            "name": "logits",
            "type": "float32",
            "shape": ["batch", len(facts.classes)],
            "is": "scores before the softmax, in the order of the classes",
        },
        "preprocess": {
            **to_dict(facts.preprocess),
            "before_the_graph": "upright" + (f"; {CUT}" if whole is None else ""),
            "in_the_graph": ("" if whole is None else f"{CUT}, unless cut already; ") + NORMALISED,
        },
        "parity": {
            "pictures": evidence.source,
            "measure": "root mean square difference over the deviation of the net's logits",
            "limit": limit,
            "batches": [dataclasses.asdict(each) for each in parity],
            "whole_pictures": whole,
        },
    }
    if evidence.split is not None and evidence.truth is not None and evidence.before is not None:
        after = count(engine, evidence.split, evidence.truth)
        card["errors"] = compare_errors(engine.name, evidence.before(), after, max_drop)
    return card


def gather(net: Net, data: str | None, precision: Precision) -> Evidence:
    """Pictures from the named set, or those embedded in scikit-learn."""
    if data is None:
        pictures, source = embedded_pictures(net.preprocess)
        return Evidence(pictures, source)
    training = open_split(net, data, "train", stored=True)
    announce(training)
    try:
        split, truth = open_pictures(net, data, "val")
    except DataError:  # it has no validation part
        split, truth = open_pictures(net, data, "test")
    few = min(CALIBRATION, len(training))
    calibration = _some(net, training, few) if precision == "int8" else None
    pictures = _some(net, split, sum(BATCHES))
    own = functools.cache(lambda: count(TorchEngine(net, "cpu", "float32"), split, truth))
    return Evidence(pictures, split.description, calibration, split, truth, own)


def _some(net: Net, split: Split, count: int) -> NDArray[np.uint8]:
    """Evenly spaced pictures of a split as the net sees them, (count, size, size, C)."""
    rows = np.linspace(0, len(split) - 1, count).astype(int).tolist()
    seen: NDArray[np.uint8] = np.stack(
        [cut(split, row, Views(), net.preprocess.spec)[0] for row in rows]
    )
    return seen


def _origin(net: Net, source: Path | None) -> dict[str, Any]:
    """Where the artifact comes from, and what made it."""
    weights: dict[str, Any] = {"weights": net.origin, "net": digest_of_net(net)}
    try:
        if source is not None:
            weights["sha256"] = digest(find_checkpoint(source))
    except CheckpointError:  # a published net has no one file
        pass
    return {
        "source": weights,
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }

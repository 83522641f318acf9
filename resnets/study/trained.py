"""Analyses of trained models: open them and their images, measure each, write the page.

An analysis is a module `study/NAME/study.py` with `ANALYSIS`, the template `study/NAME.html.j2`,
and an entry in `cli/study/analyses.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

import resnets
from resnets.config import ModelSpec
from resnets.evaluate import Evaluation
from resnets.models import ImageClassifier
from resnets.report.page import Report, write_page
from resnets.runtime.artifact import model_sha256
from resnets.study.analysis import (
    LabeledImages,
    check_finite,
    draw_split,
    images_of,
    load_models,
    prepare_images,
    study_command,
)
from resnets.study.convergence_rule import caution, cautions, guessing
from resnets.utils import environment
from resnets.utils.files import atomic_write
from resnets.weights.load import NOTHING_SAID, LoadOptions

R = TypeVar("R")


class _HasSpec(Protocol):
    @property
    def spec(self) -> ModelSpec: ...


S = TypeVar("S", bound=_HasSpec)
log = logging.getLogger(__name__)

# Values of study/analysis.html.j2: `doubts` are cautions by label, `guess` is the error of guessing
# in percent.
DEFAULTS: dict[str, Any] = {
    "protocols": {},
    "caution": "",
    "doubts": {},
    "guess": 90.0,
    "commands": [],
    "environment": {},
    "examples": 0,
    "training": "",
}


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained model and what to measure it on.

    intact: its errors and loss on `images`. training: training images, None where the analysis
    asks for none. seed: of all random choices.
    """

    label: str
    path: Path
    model: ImageClassifier
    images: LabeledImages
    intact: Evaluation
    training: LabeledImages | None
    seed: int


@dataclass(frozen=True)
class Analysis(Generic[R]):
    """An analysis of trained models, each measured by itself.

    measure: takes a `Subject` and the analysis's own options. describe: figures, tables and other
    values of the template, from the results of all models. part: of the data that `images` are
    drawn from. training_images: how many `Subject.training` has. check: raises ConfigError for a
    model that cannot be measured. result: the dataclass that `measure` returns, if it is to be
    stored for a run that resumes.
    """

    name: str
    measure: Callable[..., R]
    describe: Callable[[Sequence[R]], Mapping[str, Any]]
    part: Literal["train", "held-out"] = "held-out"
    training_images: int = 0
    check: Callable[[ImageClassifier], object] = lambda _: None
    result: type[R] | None = None

    def run(
        self,
        checkpoints: Sequence[Path],
        *,
        data: str | None,
        examples: int,
        device: str,
        out: Path,
        seed: int = 0,
        loading: LoadOptions = NOTHING_SAID,
        **options: Any,
    ) -> Report:
        """Measure each of `checkpoints` on `examples` images; returns the report in `out`.

        data: location of the data set, if not the one in the recipes. Models that `out` holds
        results of, from a run of the same weights and options, are not measured again. Raises
        ConfigError, DataError, CheckpointError, and ValueError for a model whose outputs are not
        finite.
        """
        models = load_models(checkpoints, data, loading)
        for each in models:
            self.check(each.model)
        first = models[0].model
        split = draw_split(first, data, self.part, examples, seed)
        others = (
            draw_split(first, data, "train", self.training_images, seed)
            if self.training_images
            else None
        )
        results, protocols, doubts = [], {}, {}
        errors_of = "training" if self.part == "train" else self.part
        flags = {"examples": examples, "seed": seed, **options, "data": data}
        for number, each in enumerate(models):
            weights = model_sha256(each.model)  # before it moves to the device
            images = prepare_images(split, each.model, device)
            training = prepare_images(others, each.model, device) if others else None
            intact = images.evaluate(each.model)
            check_finite(intact.loss, each.path)
            subject = Subject(each.label, each.path, each.model, images, intact, training, seed)
            path = out / "rows" / f"{number}.json"
            results.append(self._measured(subject, path, weights, options))
            protocols[each.label] = images.protocol
            classes = len(images.classes)
            doubts[each.label] = caution(each.path, intact.top1_error, classes, errors_of=errors_of)
        return self.write(
            out,
            results,
            protocols=protocols,
            caution=cautions(doubts),
            doubts=doubts,
            guess=guessing(len(first.classes)),
            commands=[study_command(self.name, *checkpoints, **flags)],
            environment=environment.describe(images.device),
            examples=len(split),
            training=others.description if others else "",
        )

    def write(self, out: Path, results: Sequence[R], **values: Any) -> Report:
        """Write the page on the results; `values` are those of study/analysis.html.j2."""
        page = DEFAULTS | values | {"results": results, **self.describe(results)}
        return write_page(out, f"study/{self.name}.html.j2", **page)

    def _measured(
        self, subject: Subject, path: Path, weights: str, options: Mapping[str, Any]
    ) -> R:
        """The result in the file `path` if it is of the same measurement, else a new one."""
        if self.result is None:
            return self.measure(subject, **options)
        images = [subject.images, *([subject.training] if subject.training else [])]
        key = {
            "version": resnets.__version__,
            "analysis": self.name,
            "model": subject.label,
            "weights": weights,
            "images": [_sha256(each) for each in images],
            "seed": subject.seed,
            "options": dict(options),
        }
        adapter: TypeAdapter[R] = TypeAdapter(self.result)
        if (found := _read(path, key, adapter)) is not None:
            log.info("%s: %s is measured already (%s)", self.name, subject.label, path)
            return found
        measured = self.measure(subject, **options)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            stored = {"key": key, "result": dataclasses.asdict(measured)}  # type: ignore[call-overload]
            temporary.write_text(json.dumps(stored), encoding="utf-8")
        return measured


def twins(results: Sequence[S]) -> list[tuple[S, S]]:
    """Each result of a plain network with each of a residual network of the same blocks."""
    return [
        (plain, residual)
        for plain in results
        for residual in results
        if not plain.spec.residual and residual.spec.residual
        if all(
            getattr(plain.spec, field) == getattr(residual.spec, field)
            for field in ("block", "depths", "widths")
        )
    ]


def _read(path: Path, key: Mapping[str, Any], adapter: TypeAdapter[R]) -> R | None:
    """The result stored for `key`, None if the file is missing, damaged or of another key."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return adapter.validate_python(stored["result"]) if stored["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def _sha256(images: LabeledImages) -> str:
    """Of the images' values, rows and targets."""
    digest = hashlib.sha256(repr(images.classes).encode())
    for batch in images.batches:
        for tensor in (images_of(batch), batch.ids, batch.targets):
            assert isinstance(tensor, Tensor)
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

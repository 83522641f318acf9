"""`Analysis`: opens trained models and their images, measures each model, and writes the page.

An analysis is a module `study/analyses/NAME.py` with `ANALYSIS`, the template
`study/NAME.html.j2`, a function in `study/analyze.py`, and an entry in `cli/study/analyses.py`.
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
from resnets.report.page import StudyResult, write_page
from resnets.runtime.artifact import model_sha256
from resnets.study.convergence_rule import chance_level, find_caution, join_cautions
from resnets.study.trained_models import (
    LabeledImages,
    check_finite,
    format_command,
    get_images,
    load_models,
    prepare_images,
    sample_split,
)
from resnets.utils.files.write import atomic_write
from resnets.utils.machine import environment
from resnets.weights.load import DEFAULT_LOAD_OPTIONS, LoadOptions

R = TypeVar("R")


class _HasSpec(Protocol):
    @property
    def spec(self) -> ModelSpec: ...


S = TypeVar("S", bound=_HasSpec)
log = logging.getLogger(__name__)

# Values of study/analysis.html.j2: `cautions` are by label, `chance_error` is in percent.
PAGE_DEFAULTS: dict[str, Any] = {
    "protocols": {},
    "caution": "",
    "cautions": {},
    "chance_error": 90.0,
    "commands": [],
    "environment": {},
    "examples": 0,
    "training": "",
}


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained model and the images to measure it on.

    intact: errors and loss of the unchanged model on `images`. training: training images, None
    unless the analysis needs them. seed: of all random choices.
    """

    label: str
    model: ImageClassifier
    images: LabeledImages
    intact: Evaluation
    training: LabeledImages | None
    seed: int


@dataclass(frozen=True)
class Analysis(Generic[R]):
    """An analysis that measures each of several trained models.

    measure: takes a `Subject` and the options of the analysis. describe: returns figures, tables
    and other values of the template for the results of all models. part: the split that `images`
    are drawn from. training_images: number of images in `Subject.training`. check: raises
    ConfigError for a model that cannot be measured. result: dataclass that `measure` returns; if
    given, results are stored, and a second run into the same folder reads them.
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
        checkpoints: Sequence[str | Path | ImageClassifier],
        *,
        data: str | None,
        examples: int,
        device: str,
        out: Path,
        seed: int = 0,
        loading: LoadOptions = DEFAULT_LOAD_OPTIONS,
        **options: Any,
    ) -> StudyResult:
        """Measure each model on `examples` images; returns the report in `out`.

        checkpoints: paths, or loaded models, which are copied. data: location of the data set, if
        not the one in the recipes. A model is not measured again if `out` has a result of the same
        weights, images and options. Raises ConfigError, DataError, CheckpointError, and ValueError
        for a model whose outputs are not finite.
        """
        models = load_models(checkpoints, data, loading)
        for each in models:
            self.check(each.model)
        first = models[0].model
        split = sample_split(first, data, self.part, examples, seed)
        training_split = (
            sample_split(first, data, "train", self.training_images, seed)
            if self.training_images
            else None
        )
        results, protocols, cautions = [], {}, {}
        measured_on = "training" if self.part == "train" else self.part
        paths = [each.path for each in models]
        flags = {"examples": examples, "seed": seed, **options, "data": data}
        for number, each in enumerate(models):
            weights = model_sha256(each.model)  # before it moves to the device
            images = prepare_images(split, each.model, device)
            training = (
                prepare_images(training_split, each.model, device) if training_split else None
            )
            intact = images.evaluate(each.model)
            check_finite(intact.loss, each.path or each.label)
            subject = Subject(each.label, each.model, images, intact, training, seed)
            path = out / "rows" / f"{number}.json"
            results.append(self._load_or_measure(subject, path, weights, options))
            protocols[each.label] = images.protocol
            cautions[each.label] = find_caution(
                each.path, intact.top1_error, len(images.classes), measured_on=measured_on
            )
        return self.write(
            out,
            results,
            protocols=protocols,
            caution=join_cautions(cautions),
            cautions=cautions,
            chance_error=chance_level(len(first.classes)),
            commands=[format_command(self.name, *paths, **flags)] if all(paths) else [],
            environment=environment.describe(images.device),
            examples=len(split),
            training=training_split.description if training_split else "",
        )

    def write(self, out: Path, results: Sequence[R], **values: Any) -> StudyResult:
        """Write the page of the results; `values` are those of study/analysis.html.j2."""
        page = PAGE_DEFAULTS | values | {"results": results, **self.describe(results)}
        return write_page(out, f"study/{self.name}.html.j2", **page)

    def _load_or_measure(
        self, subject: Subject, path: Path, weights: str, options: Mapping[str, Any]
    ) -> R:
        """Read the result from `path` if it is of the same measurement, else measure and store."""
        if self.result is None:
            return self.measure(subject, **options)
        images = [subject.images, *([subject.training] if subject.training else [])]
        key = {
            "version": resnets.__version__,
            "analysis": self.name,
            "model": subject.label,
            "weights": weights,
            "images": [_hash_images(each) for each in images],
            "seed": subject.seed,
            "options": dict(options),
        }
        adapter: TypeAdapter[R] = TypeAdapter(self.result)
        if (stored := _read_result(path, key, adapter)) is not None:
            log.info("%s: %s is already measured (%s)", self.name, subject.label, path)
            return stored
        result = self.measure(subject, **options)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            content = {"key": key, "result": dataclasses.asdict(result)}  # type: ignore[call-overload]
            temporary.write_text(json.dumps(content), encoding="utf-8")
        return result


def find_counterparts(results: Sequence[S]) -> list[tuple[S, S]]:
    """Pair each plain network's result with that of each residual network of the same blocks."""
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


def _read_result(path: Path, key: Mapping[str, Any], adapter: TypeAdapter[R]) -> R | None:
    """Return the result stored for `key`; None if the file is missing, damaged or of another."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return adapter.validate_python(stored["result"]) if stored["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def _hash_images(images: LabeledImages) -> str:
    """Return the SHA-256 of the images' classes, values, rows and targets."""
    digest = hashlib.sha256(repr(images.classes).encode())
    for batch in images.batches:
        for tensor in (get_images(batch), batch.ids, batch.targets):
            assert isinstance(tensor, Tensor)
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

"""What a server answers with: classifiers, and detectors, localisers and segmenters."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from resnets.config import ConfigError
from resnets.data.decode.decode import decode, decode_fitted
from resnets.detect.data.geometry import fitted_size
from resnets.detect.metrics.measure import Evaluator, make_test
from resnets.detect.models.inference_input import InferenceInput
from resnets.detect.models.load import load as load_finder
from resnets.detect.models.localizer import Localiser, Refiner
from resnets.detect.models.segmenter import Segmenter
from resnets.detect.predict import at_least, likeliest
from resnets.evaluate.figures.grad_cam import PANEL, grad_cam
from resnets.evaluate.figures.overlays import heat
from resnets.evaluate.prepare import to_device
from resnets.export.select import open_backend
from resnets.runtime.artifact import is_artifact
from resnets.runtime.base import Backend, Runtime, describe_backend
from resnets.serve.http.limits import RefusalError
from resnets.weights.checkpoint.format import FOLDER, RECIPE, find_checkpoint, task_of
from resnets.weights.checkpoint.store_url import path_of, url_of
from resnets.weights.files import split_part
from resnets.weights.load import NOTHING_SAID, LoadOptions, in_words, load_model, says_model

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a request may choose. threshold: least score of an object."""

    top_k: int = 5
    threshold: float = 0.5


class Model(Protocol):
    """One net behind the server.

    `prepare` decodes one encoded picture, in any thread (DataError); `compute` answers prepared
    pictures, in one thread at a time; `describe` puts an answer as JSON.
    """

    task: str
    classes: tuple[str, ...]
    engine: str
    explains: bool

    def prepare(self, data: bytes, name: str) -> Any:
        """What `compute` takes."""
        ...

    def compute(self, prepared: Sequence[Any]) -> Sequence[Any]:
        """One answer for each."""
        ...

    def describe(self, answer: Any, asked: Asked) -> Json:
        """An answer as JSON."""
        ...

    def explainable(self, wanted: str | None) -> None:
        """Get ready to explain class `wanted`, in any thread; RefusalError where that cannot be."""
        ...

    def explain(self, data: bytes, name: str, wanted: str | None) -> tuple[bytes, str]:
        """A PNG of what spoke for class `wanted` (the likeliest if None), and the class; after
        `explainable`, in the thread that computes."""
        ...


class Classifier:
    """Names what is in a picture; `where`, whose fingerprint was `digest`, is for explanations."""

    task = "classify"

    def __init__(
        self, backend: Backend, where: str, digest: str, loading: LoadOptions = NOTHING_SAID
    ) -> None:
        self.backend, self.where, self.digest, self.loading = backend, where, digest, loading
        self.classes, self.engine = backend.classes, backend.name
        self.explains = not is_artifact(where)
        self._net: Any = None
        self._lock = threading.Lock()

    def prepare(self, data: bytes, name: str) -> NDArray[np.uint8]:
        """The view (size, size, channels) that the net sees."""
        return decode(data, self.backend.preprocess.view, name)

    def compute(self, prepared: Sequence[NDArray[np.uint8]]) -> Sequence[NDArray[np.float32]]:
        """Probabilities (K,) of each."""
        return list(self.backend.probabilities(np.stack(list(prepared))))

    def describe(self, answer: NDArray[np.float32], asked: Asked) -> Json:
        """The likeliest classes, best first."""
        order = np.argsort(-answer, kind="stable")[: asked.top_k]
        return {
            "classes": [
                {"class": self.classes[place], "probability": round(float(answer[place]), 6)}
                for place in order.tolist()
            ]
        }

    def explainable(self, wanted: str | None) -> None:
        """Load the net in torch when it is first asked for. RefusalError for artifacts, which have
        no gradients, for unknown classes, and where the file is no longer what is served.
        """
        if wanted is not None and wanted not in self.classes:
            raise RefusalError(422, f"class {wanted!r}: this model does not know it")
        if not self.explains:
            raise RefusalError(
                422, "explain: an exported model has no gradients; serve its checkpoint instead"
            )
        with self._lock:
            if self._net is not None:
                return
            try:
                net, digest = load_model(self.where, self.loading), fingerprint(self.where)
            except (ValueError, OSError):  # the log of a reload says what is wrong with it
                net, digest = None, ""
            if digest != self.digest:
                raise RefusalError(
                    409,
                    "explain: the model's file has changed since it was loaded, or cannot be read;"
                    " reload it",
                )
            self._net = net

    def explain(self, data: bytes, name: str, wanted: str | None) -> tuple[bytes, str]:
        """Grad-CAM over the centre view, PANEL px."""
        pixels = self.prepare(data, name)
        if wanted is None:
            wanted = self.classes[int(self.compute([pixels])[0].argmax())]
        picture = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        image = self._net.preprocess.normalise(picture)
        target = torch.tensor([self.classes.index(wanted)])
        activation = grad_cam(self._net, image, target)[0].numpy()
        size = max(PANEL, self.backend.size)
        view = dataclasses.replace(self.backend.preprocess.view, size=size, channels=3)
        return _png(heat(Image.fromarray(decode(data, view, name)), activation)), wanted


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What was found in a picture of `size` (H, W): objects, or the class of each pixel."""

    size: tuple[int, int]
    objects: Any
    classes: NDArray[np.uint8] | None


class VisionModel:
    """A detector, localiser or segmenter; pictures are computed one after the other."""

    explains = False

    def __init__(self, where: str, device: str, precision: str) -> None:
        model = load_finder(where)
        assert model.recipe is not None
        self.task: str = model.recipe.task
        self.classes = model.classes
        chosen, precise = to_device(model, device, precision)
        self.test: Evaluator = make_test((model,), model.preprocess, chosen, precise)
        self.engine = f"torch {precise}"

    def prepare(self, data: bytes, name: str) -> InferenceInput:
        """The whole picture at the size the net sees; its own pixels are not kept."""

        def size_of(width: int, height: int) -> tuple[int, int]:
            return fitted_size(width, height, self.test.shorter, self.test.longer)

        small, stored = decode_fitted(data, name, size_of)
        return InferenceInput(0, stored, torch.from_numpy(small).permute(2, 0, 1))

    def compute(self, prepared: Sequence[InferenceInput]) -> Sequence[Prediction]:
        """What is seen in each."""
        return [self._see(each) for each in prepared]

    def describe(self, answer: Prediction, asked: Asked) -> Json:
        """Objects, surest first, in px of the upright picture; or each class's share of it."""
        height, width = answer.size
        said: Json = {"width": width, "height": height}
        if answer.classes is not None:
            labels, counts = np.unique(answer.classes, return_counts=True)
            order = np.argsort(-counts, kind="stable").tolist()
            said["areas"] = [
                {
                    "class": self.classes[int(labels[place])],
                    "share": round(float(counts[place]) / answer.classes.size, 6),
                }
                for place in order
            ]
            return said
        found = answer.objects
        found = found if self.task == "localise" else at_least(found, asked.threshold)
        said["objects"] = [
            _object(found, row, self.classes)
            for row in np.argsort(-found["scores"], kind="stable").tolist()
        ]
        return said

    def explainable(self, wanted: str | None) -> None:
        """RefusalError."""
        raise RefusalError(422, "explain: is for classifiers; this model answers with places")

    def explain(self, data: bytes, name: str, wanted: str | None) -> tuple[bytes, str]:
        """Never asked for."""
        raise NotImplementedError

    def _see(self, shown: InferenceInput) -> Prediction:
        image = self.test.preprocessor.normalise(shown.image[None].to(self.test.device))[0]
        shown = dataclasses.replace(shown, image=image)
        first = self.test.models[0]
        if isinstance(first, Segmenter):
            return Prediction(shown.stored, None, next(self.test.maps(iter([shown]))))
        if isinstance(first, Localiser | Refiner):
            located = next(self.test.located(iter([shown])))
            return Prediction(shown.stored, likeliest(located), None)
        return Prediction(shown.stored, next(self.test.objects(iter([shown]))), None)


def open_model(
    where: str,
    digest: str,
    *,
    backend: Runtime,
    device: str,
    precision: str,
    calibrate: str | None = None,
    loading: LoadOptions = NOTHING_SAID,
    say: Callable[[str], None] = lambda _: None,
) -> Model:
    """What serves the artifact, run or checkpoint `where`; errors as of its loader.

    digest: the `fingerprint` that it had before this call. loading: for weights that do not say
    their network; others say their own.
    """
    if not is_artifact(where) and task_of(where) != "classify":
        if backend not in ("auto", "torch") or precision == "int8":
            raise ConfigError(f"{where}: finds places, which only torch computes, and not in int8")
        return VisionModel(where, device, precision)
    if is_artifact(where):
        loading = NOTHING_SAID
    elif says_model(where):  # --model and --classes are for those of several that do not
        loading = dataclasses.replace(loading, model=None, rename=False)
    engine = open_backend(
        where,
        backend=backend,
        device=device,
        precision=precision,
        images=None,
        calibrate=calibrate,
        loading=loading,
        log=say,
    )
    say(f"computing with {describe_backend(engine)}")
    say(f"preprocessing: {in_words(engine.preprocess.spec)}")
    return Classifier(engine, where, digest, loading)


def fingerprint(where: str) -> str:
    """12 hex digits of the SHA-256 of what is loaded from there; of the name if it is published.

    Of a run that is its checkpoint, wherever that lies. Errors as of `find_checkpoint`.
    """
    where = split_part(where)[0]
    path = path_of(where)
    if url_of(where) or (path / FOLDER).is_dir() or (path / RECIPE).is_file():
        path = find_checkpoint(where)
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
    else:  # OpenVINO keeps its weights beside the graph, ONNX may
        beside = (path.with_suffix(".bin"), path.with_name(path.name + ".data"))
        files = [each for each in (path, *beside) if each.is_file()]
    digest = hashlib.sha256()
    for each in files:
        with each.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    if not files:
        digest.update(where.encode())
    return digest.hexdigest()[:12]


def _object(found: Any, row: int, classes: Sequence[str]) -> Json:
    said: Json = {
        "class": classes[int(found["labels"][row])],
        "score": round(float(found["scores"][row]), 6),
        "box": [round(float(value), 2) for value in found["boxes"][row]],
    }
    if "masks" in found:
        counts = found["masks"][row]["counts"]
        counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
        said["mask"] = {"size": list(found["masks"][row]["size"]), "counts": counts}
    return said


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()

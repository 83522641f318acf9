"""The runtimes: one class for each that computes a `Backend`. See `deploy/backend.py`."""

from __future__ import annotations

import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from resnets import host
from resnets.config import ConfigError, Recipe
from resnets.config.signals import signals_later
from resnets.data.preprocess import Preprocessor
from resnets.deploy.artefact import KEY, ArtefactError, Facts, check_files, need
from resnets.deploy.graph import INPUT, OUTPUT, Deployed
from resnets.deploy.program import check_archive
from resnets.evaluate.budget import Budget
from resnets.models import Net

Pictures = np.ndarray  # uint8 (B, size, size, channels)
Scores = np.ndarray  # float32 (B, K)
ROUNDS, LONG = 4, 0.1  # in which two engines take turns to show their speed; seconds of one


class Engine(ABC):
    """What all backends share; see `deploy.backend.Backend`. Safe to call from several threads."""

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...],
        preprocess: Preprocessor,
        origin: str,
        recipe: Recipe | None = None,
    ) -> None:
        spec = preprocess.spec
        self.name, self.classes, self.preprocess, self.origin = name, classes, preprocess, origin
        self.recipe, self.size, self.channels = recipe, spec.size, spec.channels
        self.batch = Budget(torch.device("cpu")).pictures(spec.size**2)
        self.note, self.at_once = "", 1

    @abstractmethod
    def _compute(self, pictures: Pictures) -> Scores:
        """Logits (B, K) of pictures of the right shape."""

    def logits(self, pictures: Pictures) -> Scores:
        """(B, K) float32 of pictures (B, size, size, channels) uint8."""
        wanted = (self.size, self.size, self.channels)
        if pictures.dtype != np.uint8 or pictures.shape[1:] != wanted or not len(pictures):
            raise ValueError(
                f"pictures {pictures.dtype} {pictures.shape}: {self.name} takes uint8 (B, "
                + ", ".join(map(str, wanted))
                + ")"
            )
        return self._compute(np.ascontiguousarray(pictures))

    def probabilities(self, pictures: Pictures) -> Scores:
        """The same after the softmax; rows sum to 1."""
        logits = self.logits(pictures)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        scores: Scores = shares / shares.sum(1, keepdims=True)
        return scores


class TorchEngine(Engine):
    """A net of ours in torch, folded, on any device."""

    def __init__(self, net: Net, device: str = "auto", precision: str = "auto") -> None:
        self.device = host.pick_device(device)
        if self.device.type == "cpu":
            host.keep_pages()
        precise = host.pick_precision(precision, self.device)
        name = f"torch {precise}, {host.device_name(self.device)}"
        super().__init__(name, net.classes, net.preprocess, net.origin, net.recipe)
        self.graph: nn.Module = Deployed(net, precise).to(self.device)
        self.budget = Budget(self.device)
        self.batch = self.budget.pictures(self.size**2)

    def _compute(self, pictures: Pictures) -> Scores:
        with torch.inference_mode():
            images = torch.from_numpy(pictures).permute(0, 3, 1, 2)  # as the budget counts pixels
            scores: Scores = self.budget.run(self._part, images).numpy()
            return scores

    def _part(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.graph(images.permute(0, 2, 3, 1).to(self.device))
        return logits.cpu()


class Stored(Engine):
    """An engine of an artefact, which says of itself what it is."""

    def __init__(self, facts: Facts, path: Path) -> None:
        self.facts = facts
        super().__init__(
            f"{facts.kind} {facts.precision}",
            facts.classes,
            facts.preprocessor,
            f"{path.name} (of {facts.origin})",
            facts.recipe,
        )

    def whole(self, picture: Pictures) -> Scores | None:
        """Logits (K,) of a picture (H, W, C) that the graph scales and crops; None where it cannot.

        For the proof: whoever predicts has the decoder do this, which need not give all pixels.
        """
        return None


class OnnxEngine(Stored):
    """An .onnx file in ONNX Runtime, on the CPU."""

    def __init__(self, path: Path) -> None:
        need("onnxruntime", f"{path}:")
        import onnxruntime as ort

        ort.disable_telemetry_events()

        def session(size: int | None) -> Any:
            options = ort.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.log_severity_level = 3
            for side in ("height", "width") if size else ():
                options.add_free_dimension_override_by_name(side, size)
            try:
                return ort.InferenceSession(path, options, ["CPUExecutionProvider"])
            except Exception as error:  # its errors share no base class of their own
                raise unreadable(path, error) from None

        self.any_size = functools.cache(lambda: session(None))
        text = self.any_size().get_modelmeta().custom_metadata_map.get(KEY)
        super().__init__(Facts.from_text(text, path), path)
        self.session = session(self.size)
        self.any_size.cache_clear()

    def whole(self, picture: Pictures) -> Scores | None:
        """See `Stored.whole`."""
        scores: Scores = self.any_size().run([OUTPUT], {INPUT: picture[None]})[0][0]
        return scores

    def _compute(self, pictures: Pictures) -> Scores:
        scores: Scores = self.session.run([OUTPUT], {INPUT: pictures})[0]
        return scores


class ProgramEngine(Stored):
    """A .pt2 file in torch, on the CPU."""

    def __init__(self, path: Path) -> None:
        extra = {f"{KEY}.json": ""}
        try:
            check_archive(path)
            with signals_later():
                program = torch.export.load(path, extra_files=extra)
            # Guards are source of the file that would be compiled; `logits` looks at shapes itself.
            self.graph = program.module(check_guards=False)
        except ArtefactError:
            raise
        except Exception as error:  # arbitrary bytes make the reader raise errors of any kind
            raise unreadable(path, error) from None
        super().__init__(Facts.from_text(extra[f"{KEY}.json"], path), path)
        host.keep_pages()

    def _compute(self, pictures: Pictures) -> Scores:
        with torch.inference_mode():
            scores: Scores = self.graph(torch.from_numpy(pictures)).numpy()
            return scores


def unreadable(path: Path, error: Exception) -> ArtefactError:
    """What to raise where a runtime cannot open `path`."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return ArtefactError(f"{path}: cannot be opened ({reason.strip()[:200]})")


def _openvino(path: Path) -> Stored:
    from resnets.deploy.runtime_openvino import OpenvinoEngine

    return OpenvinoEngine(path)


ENGINES: dict[str, Callable[[Path], Stored]] = {
    ".onnx": OnnxEngine,
    ".xml": _openvino,
    ".pt2": ProgramEngine,
}


def open_artefact(path: Path, *, device: str = "auto", precision: str = "auto") -> Stored:
    """The engine of an artefact whose files are what its card says.

    Raises ArtefactError, and ConfigError where it computes otherwise than it is told to.
    """
    if device not in ("auto", "cpu"):
        raise ConfigError(f"--device {device}: {path.name} computes on the CPU; use the checkpoint")
    check_files(path)
    engine = ENGINES[path.suffix.lower()](path)
    if precision not in ("auto", engine.facts.precision):
        raise ConfigError(
            f"--precision {precision}: {path.name} computes in {engine.facts.precision}"
        )
    return engine


def times_as_fast(engine: Engine, other: Engine) -> float:
    """Speed of the first over that of the second, of their best rounds."""
    shape = (other.size, other.size, other.channels)
    pictures = np.zeros((min(engine.batch, other.batch), *shape), np.uint8)
    engines, best = (engine, other), [0.0, 0.0]
    for _ in range(1 + ROUNDS):  # the first warms up
        for place, each in enumerate(engines):
            start, done = time.perf_counter(), 0
            while (spent := time.perf_counter() - start) < LONG or not done:
                each.logits(pictures)
                done += 1
            best[place] = max(best[place], done / spent)
    return best[0] / best[1]

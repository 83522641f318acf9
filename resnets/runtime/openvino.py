"""OpenVINO on the CPU: single pictures on all threads, many of them on one thread each.

A batch on all threads waits at the end of every layer for the slowest of them, and its activations
leave the caches. Parts of a few pictures, each on a thread of its own, do neither, and compute
ResNet-50 1.2 (int8) to 1.8 times (bfloat16) as fast on two cores. Threads that decode meanwhile
then cost what they take, and stop nobody at a barrier.
"""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnets.runtime.artifact import KEY, ArtifactError, ArtifactMetadata, need
from resnets.runtime.base import ArtifactEngine, Pictures, Scores, unreadable
from resnets.runtime.graph import INPUT
from resnets.runtime.openvino_core import core
from resnets.runtime.resize_graph import VIEW
from resnets.utils import environment

PART = 4  # pictures on one thread; fewer where there are many threads, so that each gets some
SHARED_OUT = 32  # pictures that should keep all threads busy
ROUNDS = 8  # parts that each thread gets of a batch: while the last one ends, others wait


class OpenvinoEngine(ArtifactEngine):
    """An .xml and .bin pair in OpenVINO."""

    def __init__(self, path: Path) -> None:
        need("openvino", f"{path}:")
        self.core = core()
        try:
            self.model = self.core.read_model(path)
        except RuntimeError as error:
            raise unreadable(path, error) from None
        text = str(self.model.get_rt_info([KEY]).value) if self.model.has_rt_info([KEY]) else None
        super().__init__(ArtifactMetadata.from_text(text, path), path)
        self.any_size = functools.cache(lambda: self._compiled(self.core.read_model(path)))
        self.model = _without_cut(self.model, path, self.size, self.channels)
        self.threads = torch.get_num_threads()
        self.part = max(1, min(PART, SHARED_OUT // self.threads))
        self.batch, self.at_once = self.part * self.threads * ROUNDS, 2
        self.own = threading.local()  # requests: each computes one thing at a time

    def whole(self, picture: Pictures) -> Scores | None:
        """See `ArtifactEngine.whole`."""
        scores: Scores = self.any_size()({0: picture[None]})[0][0]
        return scores

    def _compute(self, pictures: Pictures) -> Scores:
        scores = np.empty((len(pictures), len(self.classes)), np.float32)
        if len(pictures) <= max(1, self.part // 2):
            for row, picture in enumerate(pictures):
                scores[row] = self._request().infer({0: picture[None]})[0][0]
            return scores
        queue = self._queue()

        def keep(request: Any, start: int) -> None:
            part = request.get_output_tensor(0).data[: len(scores) - start]
            scores[start : start + len(part)] = part

        queue.set_callback(keep)
        for start in range(0, len(pictures), self.part):
            part = pictures[start : start + self.part]
            missing = [(0, self.part - len(part)), (0, 0), (0, 0), (0, 0)]
            queue.start_async({0: np.pad(part, missing) if missing[0][1] else part}, start)
        queue.wait_all()
        return scores

    def _request(self) -> Any:
        """Of this thread: one picture."""
        if not hasattr(self.own, "request"):
            self.own.request = self._alone.create_infer_request()
        return self.own.request

    def _queue(self) -> Any:
        """Of this thread: parts, one waiting for each that is computed."""
        import openvino as ov

        if not hasattr(self.own, "queue"):
            self.own.queue = ov.AsyncInferQueue(self._parts, 2 * self.threads)
        return self.own.queue

    @functools.cached_property
    def _alone(self) -> Any:
        return self._compiled(self.model, 1, PERFORMANCE_HINT="LATENCY")

    @functools.cached_property
    def _parts(self) -> Any:
        return self._compiled(self.model, self.part, NUM_STREAMS=self.threads)

    def _compiled(self, model: Any, batch: int | None = None, **hints: Any) -> Any:
        """For pictures that are cut already, `batch` of them; of any size and number if None."""
        if batch is not None:  # a batch that is known beforehand computes a tenth faster
            model = model.clone()
            model.reshape([batch, self.size, self.size, self.channels])
        # Left alone, a CPU that multiplies bfloat16 computes float32 graphs in it. Threads that
        # stay on one core each would meet those of the decoder, and of other processes, there.
        bf16 = self.facts.precision == "bfloat16" or (
            self.facts.floats
            and environment.pick_precision("auto", torch.device("cpu")) == "bfloat16"
        )
        hints |= {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": self.threads,
            "ENABLE_CPU_PINNING": False,
        }
        return self.core.compile_model(model, "CPU", hints)


def _without_cut(model: Any, path: Path, size: int, channels: int) -> Any:
    """The model from where pictures are cut on; OpenVINO itself keeps a resize to the same size."""
    import openvino as ov
    from openvino import opset13 as op

    view = next((each for each in model.get_ops() if each.get_friendly_name() == VIEW), None)
    if view is None:
        raise ArtifactError(f"{path}: was made by another version of resnets; export again")
    pictures = op.parameter([-1, size, size, channels], np.uint8, name=INPUT)
    view.output(0).replace(pictures.output(0))
    return ov.Model(model.get_results(), [pictures], "net")

"""OpenVINO on the CPU: a single image on all threads, a batch as chunks of one thread each.

A batch computed by all threads synchronizes after every layer, and its activations do not fit the
caches. Chunks of a few images, each on its own thread, avoid both and run ResNet-50 1.2 (int8) to
1.8 times (bfloat16) as fast on two cores. Decoding threads then do not delay a barrier either.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from resnets.runtime.artifact import KEY, ArtifactError, ArtifactMetadata
from resnets.runtime.base import ArtifactBackend, Images, Scores, open_error
from resnets.runtime.inference_module import INPUT
from resnets.runtime.resize_graph import VIEW
from resnets.utils.imports import require_package
from resnets.utils.machine.precision import pick_precision

T = TypeVar("T")

HEADER_SIZE = 1024  # bytes of a file that are compared with MODEL
FIELD = rb"""\s+[\w.:-]+\s*=\s*(?:"[^"<]*"|'[^'<]*')"""
MODEL = re.compile(
    rb"""\s*(<\?xml[^>]*\?>\s*)?<net(%b)*\s+version=["']1\d["'](%b)*\s*>""" % (FIELD, FIELD)
)
CHUNK = 4  # images per thread; fewer on machines with many threads
IMAGES_IN_FLIGHT = 32  # enough to keep all threads busy
CHUNKS_PER_THREAD = 8  # per batch, so that few threads idle at its end
_LOCK = threading.Lock()


def shared_core() -> Any:
    """Return the `openvino.Core` of the process with its CPU plugin loaded; created on first use.

    The plugin gives the thread that loads it an alternate signal stack (AMX needs a large one), and
    frees it with its `Core` (sigstack_manager.cpp of the plugin,
    https://github.com/openvinotoolkit/openvino/pull/11894). Of two cores the first may be freed
    first: the thread then has a dangling signal stack, and the next signal, such as the SIGTERM
    that stops a server, crashes the process. So there is one core that is never freed, and code
    that creates cores of its own runs in a thread that receives no signals afterwards.
    """
    with _LOCK:
        return _create_core()


def run_in_new_thread(function: Callable[[], T]) -> T:
    """Return `function()`, run in a new thread; its exceptions are raised here."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


@functools.cache
def _create_core() -> Any:
    import openvino as ov

    # Two threads that read their first tensors at the same time can hang.
    assert ov.Tensor(np.zeros(1, np.uint8)).data is not None
    core = ov.Core()
    # Memory-mapped weights would change, or crash the process, if the file is overwritten.
    core.set_property({"ENABLE_MMAP": False})
    run_in_new_thread(lambda: core.get_property("CPU", "FULL_DEVICE_NAME"))
    return core


def read_model(path: Path) -> tuple[Any, ArtifactMetadata]:
    """Return the openvino.Model at `path` and its metadata."""
    require_package("openvino", f"{path}:")
    with open(path, "rb") as file:
        if not MODEL.match(file.read(HEADER_SIZE)):  # OpenVINO would try readers of other formats
            raise ArtifactError(f"{path}: is not an OpenVINO model; export again")
    try:
        model = shared_core().read_model(path)
    except Exception as error:  # arbitrary bytes make the reader raise errors of any kind
        raise open_error(path, error) from None
    text = str(model.get_rt_info([KEY]).value) if model.has_rt_info([KEY]) else None
    return model, ArtifactMetadata.from_json(text, path)


def precision_setting(metadata: ArtifactMetadata) -> dict[str, str]:
    """Return OpenVINO's setting for the precision of an artifact.

    By default, CPUs with bfloat16 instructions run float32 graphs in bfloat16.
    """
    bf16 = metadata.precision == "bfloat16" or (
        metadata.floats and pick_precision("auto", torch.device("cpu")) == "bfloat16"
    )
    return {"INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32"}


class OpenvinoBackend(ArtifactBackend):
    """An .xml and .bin pair in OpenVINO."""

    def __init__(self, path: Path) -> None:
        self.model, metadata = read_model(path)
        self.core, self.settings = shared_core(), precision_setting(metadata)
        super().__init__(metadata, path)
        self.any_size = functools.cache(lambda: self._compile(self.core.read_model(path)))
        self.model = _without_resize(self.model, path, self.size, self.channels)
        self.threads = torch.get_num_threads()
        self.chunk = max(1, min(CHUNK, IMAGES_IN_FLIGHT // self.threads))
        self.batch, self.at_once = self.chunk * self.threads * CHUNKS_PER_THREAD, 2
        self.local = threading.local()  # infer requests, which are not thread-safe

    def full_image_logits(self, image: Images) -> Scores | None:
        """See `ArtifactBackend.full_image_logits`."""
        scores: Scores = self.any_size()({0: image[None]})[0][0]
        return scores

    def _compute(self, images: Images) -> Scores:
        scores = np.empty((len(images), len(self.classes)), np.float32)
        if len(images) <= max(1, self.chunk // 2):
            for row, image in enumerate(images):
                scores[row] = self._request().infer({0: image[None]})[0][0]
            return scores
        queue = self._queue()

        def store(request: Any, start: int) -> None:
            chunk = request.get_output_tensor(0).data[: len(scores) - start]
            scores[start : start + len(chunk)] = chunk

        queue.set_callback(store)
        for start in range(0, len(images), self.chunk):
            chunk = images[start : start + self.chunk]
            padding = [(0, self.chunk - len(chunk)), (0, 0), (0, 0), (0, 0)]
            queue.start_async({0: np.pad(chunk, padding) if padding[0][1] else chunk}, start)
        queue.wait_all()
        return scores

    def _request(self) -> Any:
        """Return the infer request of this thread, for one image."""
        if not hasattr(self.local, "request"):
            self.local.request = self._single_image_model.create_infer_request()
        return self.local.request

    def _queue(self) -> Any:
        """Return the request queue of this thread, for chunks: one waiting for each that runs."""
        import openvino as ov

        if not hasattr(self.local, "queue"):
            self.local.queue = ov.AsyncInferQueue(self._chunk_model, 2 * self.threads)
        return self.local.queue

    @functools.cached_property
    def _single_image_model(self) -> Any:
        return self._compile(self.model, 1, PERFORMANCE_HINT="LATENCY")

    @functools.cached_property
    def _chunk_model(self) -> Any:
        return self._compile(self.model, self.chunk, NUM_STREAMS=self.threads)

    def _compile(self, model: Any, batch: int | None = None, **hints: Any) -> Any:
        """Compile for `batch` cropped images; for any number and size if None."""
        if batch is not None:  # a static batch size is a tenth faster
            model = model.clone()
            model.reshape([batch, self.size, self.size, self.channels])
        # Pinned threads would compete with the decoder, and with other processes, for their cores.
        hints |= {
            **self.settings,
            "INFERENCE_NUM_THREADS": self.threads,
            "ENABLE_CPU_PINNING": False,
        }
        return self.core.compile_model(model, "CPU", hints)


def _without_resize(model: Any, path: Path, size: int, channels: int) -> Any:
    """Return the model without resize and crop: OpenVINO keeps a resize to the same size."""
    import openvino as ov
    from openvino import opset13 as op

    view = next((each for each in model.get_ops() if each.get_friendly_name() == VIEW), None)
    if view is None:
        raise ArtifactError(f"{path}: was written by another version of resnets; export again")
    images = op.parameter([-1, size, size, channels], np.uint8, name=INPUT)
    view.output(0).replace(images.output(0))
    return ov.Model(model.get_results(), [images], "model")

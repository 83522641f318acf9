"""ONNX Runtime on the CPU."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from resnets.runtime.artifact import KEY, ArtifactMetadata
from resnets.runtime.base import ArtifactBackend, Images, Scores, open_error
from resnets.runtime.inference_module import OUTPUT
from resnets.utils.imports import require_package

SETTINGS = {"providers": ["CPUExecutionProvider"]}


def create_session(path: Path, size: int | None = None) -> Any:
    """Create an onnxruntime.InferenceSession, for square images of `size` px if given."""
    require_package("onnxruntime", f"{path}:")
    import onnxruntime as ort

    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    for side in ("height", "width") if size else ():
        options.add_free_dimension_override_by_name(side, size)
    try:
        # Without the fallback, which prints a message and only tries the same again.
        return ort.InferenceSession(path, options, SETTINGS["providers"], enable_fallback=0)
    except Exception as error:  # its errors have no common base class
        raise open_error(path, error) from None


def session_metadata(session: Any, path: Path) -> ArtifactMetadata:
    """Return the metadata in the file of a session."""
    return ArtifactMetadata.from_json(session.get_modelmeta().custom_metadata_map.get(KEY), path)


class OnnxBackend(ArtifactBackend):
    """An .onnx file in ONNX Runtime, on the CPU."""

    settings = SETTINGS

    def __init__(self, path: Path) -> None:
        self.any_size = functools.cache(lambda: create_session(path))
        super().__init__(session_metadata(self.any_size(), path), path)
        self.session = create_session(path, self.size)
        self.input_name = self.session.get_inputs()[0].name  # earlier versions had another
        self.any_size.cache_clear()

    def full_image_logits(self, image: Images) -> Scores | None:
        """See `ArtifactBackend.full_image_logits`."""
        if not self.metadata.resizes:
            return None
        scores: Scores = self.any_size().run([OUTPUT], {self.input_name: image[None]})[0][0]
        return scores

    def _compute(self, images: Images) -> Scores:
        scores: Scores = self.session.run([OUTPUT], {self.input_name: images})[0]
        return scores

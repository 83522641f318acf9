"""PyTorch: models on any device, and `torch.export` programs (.pt2) on the CPU."""

from __future__ import annotations

import io
import json
import logging
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnets.evaluate.batched_inference import PixelBudget
from resnets.models import ImageClassifier
from resnets.runtime.artifact import KEY, ArtifactError, ArtifactMetadata
from resnets.runtime.base import ArtifactBackend, Backend, Images, Scores, open_error
from resnets.runtime.inference_module import InferenceModule
from resnets.utils.errors import within_memory
from resnets.utils.machine import environment
from resnets.utils.machine.precision import pick_precision
from resnets.utils.machine.processes import deferred_signals

# `torch.export.load` can run code from a file in many ways: it unpickles sample inputs, legacy
# weights and objects, loads compiled libraries, evaluates sizes as Python, looks functions up by
# name and puts names into source that it compiles. `check_archive` rejects a file that needs any of
# that.
PROGRAM, SAMPLE = "models/model.json", "data/sample_inputs/model.pt"
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
MEMBERS = re.compile(
    rf"{PROGRAM}|{SAMPLE}|{'|'.join(CONFIGS)}|data/weights/weight_\d+|extra/{KEY}\.json"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
)
# Allowed strings of the program, by key; nothing can be called without quotes and parentheses.
NAME_PATTERN = re.compile(r"[\w.+-]*")
TREE_SPEC_WORDS = r"type|context|children_spec|builtins\.\w+|null|\[\]"
TREE_SPEC_PATTERN = re.compile(rf'([\s\d,:{{}}\[\]]|null|"({TREE_SPEC_WORDS})")*')
TEXT_PATTERNS = {
    "target": re.compile(r"torch\.ops\.aten\.(?!from_file\b)\w+\.\w+"),
    "expr_str": re.compile(r"\w+|Symbol\('\w+'(, \w+=True)*\)"),
    "in_spec": TREE_SPEC_PATTERN,
    "out_spec": TREE_SPEC_PATTERN,
    # Debug information about the origin of a node.
    **dict.fromkeys(("stack_trace", "nn_module_stack", "torch_fn"), re.compile(r"(?s:.*)")),
}


class TorchBackend(Backend):
    """A PyTorch model with folded batch norms, on any device."""

    def __init__(
        self, model: ImageClassifier, device: str = "auto", precision: str = "auto"
    ) -> None:
        self.device = environment.pick_device(device)
        if self.device.type == "cpu":
            environment.tune_malloc()
        keep_bits = model.preprocess.spec.keep_bits
        resolved = pick_precision(precision, self.device, keep_bits=keep_bits)
        name = f"torch {resolved}, {environment.device_name(self.device)}"
        super().__init__(
            name, model.classes, model.preprocess, model.origin, model.recipe, model.postprocess
        )
        with within_memory(
            f"the model does not fit on {self.device}", "use --device cpu", self.device
        ):
            self.graph: nn.Module = InferenceModule(model, resolved).to(self.device)
        self.budget = PixelBudget(self.device)
        self.batch = self.budget.images(self.size**2)

    def _compute(self, images: Images) -> Scores:
        with torch.inference_mode():
            tensor = torch.from_numpy(images).permute(0, 3, 1, 2)  # NCHW, as `PixelBudget` expects
            scores: Scores = self.budget.run(self._compute_chunk, tensor).numpy()
            return scores

    def _compute_chunk(self, tensor: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.graph(tensor.permute(0, 2, 3, 1).to(self.device))
        return logits.cpu()


class ProgramBackend(ArtifactBackend):
    """A .pt2 file in PyTorch, on the CPU."""

    def __init__(self, path: Path) -> None:
        extra = {f"{KEY}.json": ""}
        try:
            check_archive(path)
            with deferred_signals(), _silence_export_log():
                program = torch.export.load(path, extra_files=extra)
            # Guards are source code in the file that would be compiled; `logits` checks shapes.
            self.graph = program.module(check_guards=False)
        except ArtifactError:
            raise
        except Exception as error:  # arbitrary bytes can raise exceptions of any type
            raise open_error(path, error) from None
        super().__init__(ArtifactMetadata.from_json(extra[f"{KEY}.json"], path), path)
        environment.tune_malloc()

    def _compute(self, images: Images) -> Scores:
        with torch.inference_mode():
            scores: Scores = self.graph(torch.from_numpy(images)).numpy()
            return scores


@contextmanager
def _silence_export_log() -> Iterator[None]:
    """Context in which torch.export does not log the errors that it raises."""
    logger = logging.getLogger("torch.export")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def check_archive(path: Path) -> None:
    """Raise ArtifactError if `path` has content that `resnets export` does not write.

    Damaged files can raise exceptions of any type.
    """
    from torch.export.pt2_archive import PT2ArchiveReader  # the reader of torch.export.load

    with zipfile.ZipFile(path) as archive:  # and its fallback
        zip_names = [name.partition("/")[2] for name in archive.namelist()]
    with PT2ArchiveReader(str(path)) as reader:
        names = reader.get_file_names()
        if sorted(names) != sorted(zip_names) or len(names) != len(set(names)):
            raise ArtifactError(f"{path}: has an inconsistent list of members; not opened")
        for name in names:
            if not MEMBERS.fullmatch(name):
                raise ArtifactError(f"{path}: has an unexpected member {name!r}; not opened")
        weights, constants = (json.loads(reader.read_string(name))["config"] for name in CONFIGS)
        program, sample = json.loads(reader.read_string(PROGRAM)), reader.read_bytes(SAMPLE)
    if constants:
        raise ArtifactError(f"{path}: has constants that are not weights; not opened")
    if any(entry.get("use_pickle", True) for entry in weights.values()):
        raise ArtifactError(f"{path}: has pickled weights; not opened")
    try:
        torch.load(io.BytesIO(sample), weights_only=True)
    except Exception:  # not tensors only; torch.export.load would unpickle it anyway
        raise ArtifactError(f"{path}: has a pickle that can run code; not opened") from None
    program.pop("guards_code", None)  # never executed: see `module(check_guards=False)`
    if (suspicious := _suspicious_text([program, weights], "")) is not None:
        raise ArtifactError(f"{path}: has code ({suspicious[:60]!r}); not opened")


def _suspicious_text(value: Any, key: str) -> str | None:
    """Return the first string within `value`, stored under `key`, that is not allowed there."""
    if isinstance(value, str):
        return None if TEXT_PATTERNS.get(key, NAME_PATTERN).fullmatch(value) else value
    children: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = [(key, each) for each in value]
    for name, child in children:
        suspicious = name if not NAME_PATTERN.fullmatch(name) else _suspicious_text(child, name)
        if suspicious is not None:
            return suspicious
    return None

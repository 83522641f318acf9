"""Whether a .pt2 archive holds a program as `export/write.py` writes it, and nothing that runs.

`torch.export.load` runs code of a file in many ways: it unpickles sample inputs, legacy weights and
objects, loads compiled libraries, evaluates sizes as Python, looks functions up by their names and
puts names into source that it compiles. A file that asks for any of that is refused before.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from resnets.runtime.artifact import KEY, ArtifactError

PROGRAM, SAMPLE = "models/model.json", "data/sample_inputs/model.pt"
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
MEMBERS = re.compile(
    rf"{PROGRAM}|{SAMPLE}|{'|'.join(CONFIGS)}|data/weights/weight_\d+|extra/{KEY}\.json"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
)
# What texts of the program may be, by their keys; without quotes and brackets nothing is called.
NAME = re.compile(r"[\w.+-]*")
NESTED = r"type|context|children_spec|builtins\.\w+|null|\[\]"
NESTING = re.compile(rf'([\s\d,:{{}}\[\]]|null|"({NESTED})")*')
TEXTS = {
    "target": re.compile(r"torch\.ops\.aten\.(?!from_file\b)\w+\.\w+"),
    "expr_str": re.compile(r"\w+|Symbol\('\w+'(, \w+=True)*\)"),
    "in_spec": NESTING,
    "out_spec": NESTING,
    # Where a node came from: kept as it is, for people.
    **dict.fromkeys(("stack_trace", "nn_module_stack", "torch_fn"), re.compile(r"(?s:.*)")),
}


def check_archive(path: Path) -> None:
    """ArtifactError where `path` holds anything that no .pt2 of `resnets export` holds.

    Errors of any kind where it is damaged.
    """
    from torch.export.pt2_archive import PT2ArchiveReader  # what torch.export.load reads with

    with zipfile.ZipFile(path) as archive:  # and what it falls back to
        found = [name.partition("/")[2] for name in archive.namelist()]
    with PT2ArchiveReader(str(path)) as reader:
        names = reader.get_file_names()
        if sorted(names) != sorted(found) or len(names) != len(set(names)):
            raise ArtifactError(f"{path}: lists its parts in two ways; not opened")
        for name in names:
            if not MEMBERS.fullmatch(name):
                raise ArtifactError(f"{path}: holds {name!r}, which no export does; not opened")
        weights, constants = (json.loads(reader.read_string(name))["config"] for name in CONFIGS)
        program, sample = json.loads(reader.read_string(PROGRAM)), reader.read_bytes(SAMPLE)
    if constants:
        raise ArtifactError(f"{path}: holds objects that are no weights; not opened")
    if any(entry.get("use_pickle", True) for entry in weights.values()):
        raise ArtifactError(f"{path}: holds pickled weights; not opened")
    try:
        torch.load(io.BytesIO(sample), weights_only=True)
    except Exception:  # what is no tensor; torch.export.load would unpickle it all the same
        raise ArtifactError(f"{path}: holds a pickle that can run code; not opened") from None
    program.pop("guards_code", None)  # they are not run: `module(check_guards=False)`
    if (odd := _odd_text([program, weights], "")) is not None:
        raise ArtifactError(f"{path}: holds code ({odd[:60]!r}); not opened")


def _odd_text(part: Any, key: str) -> str | None:
    """A text within `part`, which is the value of `key`, that is not as it should be."""
    if isinstance(part, str):
        return None if TEXTS.get(key, NAME).fullmatch(part) else part
    inside: list[tuple[str, Any]] = []
    if isinstance(part, dict):
        inside = list(part.items())
    elif isinstance(part, list):
        inside = [(key, each) for each in part]
    for name, value in inside:
        odd = name if not NAME.fullmatch(name) else _odd_text(value, name)
        if odd is not None:
            return odd
    return None

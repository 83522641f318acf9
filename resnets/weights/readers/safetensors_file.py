"""Reading safetensors files with plain reads.

The library maps files into memory. A mapped file that is cut short or rewritten in place while its
tensors are copied ends the process by SIGBUS, and one that is rewritten later changes tensors that
were verified. What is read here belongs to the process.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

LONGEST_HEADER = 100_000_000  # bytes, the library's own limit


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a file, by name; SafetensorError and OSError as the library.

    The library returns tensors in the order of a hash map, another one in every call.
    """
    data = path.read_bytes()
    tensors = safetensors.torch.load(data)  # checks the header, and copies
    metadata = _metadata(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return metadata, dict(sorted(tensors.items()))


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata alone; SafetensorError for what is no safetensors file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= LONGEST_HEADER:
            raise SafetensorError("not a safetensors file: its header has an impossible length")
        return _metadata(file.read(size))


def stated_in(metadata: dict[str, str]) -> dict[str, Any]:
    """Metadata as the table that they were before they became texts: JSON is read, else text."""
    return {key: _value(text) for key, text in metadata.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _metadata(header: bytes) -> dict[str, str]:
    try:
        found = json.loads(header)
        metadata = found.get("__metadata__", {})
        items = dict(metadata.items())
    except (ValueError, RecursionError, AttributeError):
        raise SafetensorError("not a safetensors file: its header is no JSON object") from None
    if not all(isinstance(value, str) for value in items.values()):
        raise SafetensorError("not a safetensors file: its metadata are not texts")
    return items

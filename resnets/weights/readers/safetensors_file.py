"""Reading safetensors files with plain reads.

The library maps files into memory. If a mapped file is truncated or rewritten in place, the process
ends by SIGBUS, or tensors change after they were verified. Here tensors are copies in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from resnets.utils.files.json import parse_json

LONGEST_HEADER = 100_000_000  # bytes, the library's own limit


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a file by name, sorted by name.

    The library returns tensors in the order of a hash map, which differs in each call. Raises
    SafetensorError and OSError as the library does.
    """
    data = path.read_bytes()
    tensors = safetensors.torch.load(data)  # checks the header, and copies
    metadata = _parse_header(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return metadata, dict(sorted(tensors.items()))


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata alone; SafetensorError for another kind of file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= LONGEST_HEADER:
            raise SafetensorError("not a safetensors file: its header has an impossible length")
        return _parse_header(file.read(size))


def parse_metadata(metadata: dict[str, str]) -> dict[str, Any]:
    """Parse the values of metadata, which are texts: JSON if they are JSON, else text."""
    return {key: _parse_value(text) for key, text in metadata.items()}


def _parse_value(text: str) -> Any:
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return text


def _parse_header(header: bytes) -> dict[str, str]:
    try:
        metadata = parse_json(header).get("__metadata__", {})
        items = dict(metadata.items())
    except (ValueError, RecursionError, AttributeError):
        raise SafetensorError("not a safetensors file: its header is not a JSON object") from None
    if not all(isinstance(value, str) for value in items.values()):
        raise SafetensorError("not a safetensors file: its metadata values are not texts")
    return items

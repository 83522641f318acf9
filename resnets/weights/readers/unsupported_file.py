"""Recognize files and folders that are not readable weights, and say what to do with them."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from resnets.data.file_kinds import NOT_THE_FILE, Group, describe_kind
from resnets.weights.errors import WeightsError

HEADER_SIZE = 512  # bytes that are compared
UNPACK = "unpack it, and name the file in it"
SAVE = "save the tensors where it was made: torch.save(model.state_dict())"
AS_NPZ = "save its arrays under the names of a format that is read (docs/weights.md), with np.savez"
REMEDIES: Mapping[Group, str] = {
    **NOT_THE_FILE,
    "tar stream": UNPACK,
    "archive": UNPACK,
    "array": "save all tensors by name, as .npz or .safetensors",
    "xml": "the graph of OpenVINO is XML, and is not read",
    "network": SAVE,
}
# By the end of their name, unless their first bytes are those of a file that is read.
ENDINGS = (
    (r"\.pb", f"a graph of TensorFlow; {AS_NPZ}"),
    (r"\.index|\.data-\d{5}-of-\d{5}", f"a checkpoint of TensorFlow; {AS_NPZ}"),
    (r"\.params", f"parameters of MXNet; {AS_NPZ}"),
    (r"\.msgpack", f"parameters of Flax; {AS_NPZ}"),
    (r"\.tflite", f"a model of TensorFlow Lite; {SAVE}"),
    (r"\.(engine|plan|trt)", f"an engine of TensorRT; {SAVE}"),
)
READABLE = (b"PK", b"\x80", b"\x89HDF")  # zip archives, pickles, HDF5; safetensors has b"{" at 8
TENSORFLOW = ("saved_model.pb", "*.ckpt*.index", "variables/variables.index")
PICKLE = "data.pkl"  # in archives of torch
ADAPTER = "adapter_config.json"
SNAPSHOTS = "snapshots"


def check_folder_kind(path: Path) -> None:
    """Raise WeightsError for a folder whose weights cannot be read as they are.

    That is an unpacked archive, a folder with an adapter, or a model in the Hub's cache.
    """
    inner = next(iter(sorted(path.glob(f"*/{PICKLE}"))), path / PICKLE)
    archive = (path if (path / PICKLE).is_file() else inner.parent).absolute()
    if (archive / PICKLE).is_file() and (archive / "data").is_dir():
        raise WeightsError(
            f"{path}: is an unpacked archive of torch; zip it again: (cd {archive.parent} &&"
            f" zip -0 -r {archive.name}.pth {archive.name})"
        )
    cached = path.parent if path.name == SNAPSHOTS else path
    snapshots = sorted(each for each in (cached / SNAPSHOTS).glob("*") if each.is_dir())
    if snapshots and cached.name.startswith("models--"):
        raise WeightsError(
            f"{path}: is a model in the cache of the Hugging Face Hub; give one of its snapshots:"
            f" {', '.join(map(str, snapshots[:3]))}"
        )
    for pattern in TENSORFLOW:
        if found := sorted(path.glob(pattern)):
            raise WeightsError(
                f"{path}: cannot be read as weights: it is a model of TensorFlow ({found[0].name});"
                f" {AS_NPZ}"
            )
    adapter = next(iter(sorted(path.glob("adapter_model.*"))), path / ADAPTER)
    if adapter.is_file() or (path / ADAPTER).is_file():
        raise adapter_error(path)


def adapter_error(source: Path | str) -> WeightsError:
    """Return the error for weights that an adapter (PEFT) changes."""
    return WeightsError(
        f"{source}: has an adapter (PEFT) that changes what the network computes; merge the adapter"
        " first: model.merge_and_unload().save_pretrained(FOLDER)"
    )


def check_file_kind(path: Path) -> None:
    """Raise WeightsError, with the kind of the file, if it is known not to be weights."""
    if path.name == PICKLE and (path.parent / "data").is_dir():
        check_folder_kind(path.parent)
    if path.name.startswith("adapter_model."):
        raise adapter_error(path)
    with open(path, "rb") as file:
        start = file.read(HEADER_SIZE)
    if kind := _find_kind(start, path):
        raise WeightsError(f"{path}: cannot be read as weights: it is {kind}")


def _find_kind(start: bytes, path: Path) -> str | None:
    is_safetensors = start[8:9] == b"{"  # before it is a length, of any bytes
    if not is_safetensors and (kind := describe_kind(start, REMEDIES)):
        return kind
    if not start:
        return "empty"
    if start[257:262] == b"ustar":
        return f"a tar archive; {UNPACK}"
    if not (start.startswith(READABLE) or is_safetensors):
        for ending, kind in ENDINGS:
            if re.search(rf"({ending})$", path.name.lower()):
                return kind
    if path.suffix.lower() == ".onnx" or _looks_like_onnx(start):
        return f"an ONNX graph; {SAVE}"
    is_index = b"weight_map" in start or path.name.endswith(".index.json")
    if is_index and start.lstrip().startswith(b"{"):
        return "the index of weights in several files; merge these into one .safetensors"
    return None


def _looks_like_onnx(start: bytes) -> bool:
    """Return whether a small version number comes first, then the name of the exporter."""
    return start[:1] == b"\x08" and start[1:2] < b"\x20" and start[2:3] == b"\x12"


def describe_archive(archive: zipfile.ZipFile) -> str:
    """Return the kind of a zip archive that does not contain weights of torch."""
    names = [name for name in archive.namelist() if not name.endswith("/")]
    if any(name.endswith(("archive_format", "exported_program.json")) for name in names):
        return "a program of torch.export; save its tensors: torch.export.load(FILE).state_dict"
    roots = [name.removesuffix(PICKLE) for name in names if f"/{name}".endswith(f"/{PICKLE}")]
    if len(roots) == 1 and any(name.startswith(f"{roots[0]}data/") for name in names):
        return (
            "an archive of torch that was zipped again with another top folder, or without it; "
            f"unpack it so that {PICKLE} is in one folder w, and zip that: zip -0 -r w.pth w"
        )
    return f"a zip archive of {len(names)} files, not of torch; {UNPACK}"

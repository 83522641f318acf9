"""Files that hold no weights that are read here, told by their first bytes, and what to do."""

from __future__ import annotations

import zipfile
from pathlib import Path

from resnets.weights.errors import WeightsError

START = 512  # bytes
UNPACK = "unpack it, and name the file in it"
STARTS = (
    (b"\x1f\x8b", f"a gzip archive; {UNPACK}"),
    (b"BZh", f"a bzip2 archive; {UNPACK}"),
    (b"\xfd7zXZ", f"an xz archive; {UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"a zstd archive; {UNPACK}"),
    (b"7z\xbc\xaf", f"a 7z archive; {UNPACK}"),
    (b"version https://git-lfs", "a pointer of Git LFS; fetch the file itself with git lfs pull"),
    (b"<!doctype", "a web page, not the file that was to be downloaded; download it again"),
    (b"<html", "a web page, not the file that was to be downloaded; download it again"),
)
UNPACKED = "an archive of torch's that was unpacked"
PICKLE = "data.pkl"  # in an archive of torch's
ADAPTER = "adapter_config.json"
SNAPSHOTS = "snapshots"
NUMPY = "arrays of NumPy (npz); save the tensors as .safetensors or with torch.save"


def refuse_folder(path: Path) -> None:
    """WeightsError where a folder holds no weights as they are.

    It is an unpacked archive, has an adapter, or is a model in the Hugging Face Hub's cache.
    """
    inner = next(iter(sorted(path.glob(f"*/{PICKLE}"))), path / PICKLE)
    archive = path if (path / PICKLE).is_file() else inner.parent
    if (archive / PICKLE).is_file() and (archive / "data").is_dir():
        raise WeightsError(
            f"{path}: is {UNPACKED}; zip it again: (cd {archive.absolute().parent} &&"
            f" zip -0 -r {archive.absolute().name}.pth {archive.absolute().name})"
        )
    cached = path.parent if path.name == SNAPSHOTS else path
    snapshots = sorted(each for each in (cached / SNAPSHOTS).glob("*") if each.is_dir())
    if snapshots and cached.name.startswith("models--"):
        raise WeightsError(
            f"{path}: is a model in the cache of the Hugging Face Hub; name one of its snapshots:"
            f" {', '.join(map(str, snapshots[:3]))}"
        )
    adapter = next(iter(sorted(path.glob("adapter_model.*"))), path / ADAPTER)
    if adapter.is_file() or (path / ADAPTER).is_file():
        raise adapter_error(path)


def adapter_error(source: Path | str) -> WeightsError:
    """What to raise over weights that an adapter (PEFT) changes."""
    return WeightsError(
        f"{source}: has an adapter (PEFT) that changes what the network computes; merge the adapter"
        " first: model.merge_and_unload().save_pretrained(FOLDER)"
    )


def refuse_other_kinds(path: Path) -> None:
    """WeightsError, with the kind of the file, where it is known to be none of weights."""
    if path.name == PICKLE and (path.parent / "data").is_dir():
        refuse_folder(path.parent)
    if path.name.startswith("adapter_model."):
        raise adapter_error(path)
    with open(path, "rb") as file:
        start = file.read(START)
    if kind := _kind(start, path):
        raise WeightsError(f"{path}: cannot be read as weights: it is {kind}")


def _kind(start: bytes, path: Path) -> str | None:
    text = start.lstrip().lower()
    for magic, kind in STARTS:
        if (text if magic.startswith(b"<") else start).startswith(magic):
            return kind
    if not start:
        return "empty"
    if start[257:262] == b"ustar":
        return f"a tar archive; {UNPACK}"
    if start[:6] == b"\x93NUMPY":
        return "an array of NumPy; save the tensors as .safetensors or with torch.save"
    if path.suffix.lower() == ".onnx" or _looks_like_onnx(start):
        return "an ONNX graph; save the tensors where it was made: torch.save(model.state_dict())"
    if text.startswith(b"{") and (b"weight_map" in start or path.name.endswith(".index.json")):
        return "the index of weights in several files; merge these into one .safetensors"
    return None


def _looks_like_onnx(start: bytes) -> bool:
    """Its version, a small number, comes first; then the name of the program that made it."""
    return start[:1] == b"\x08" and start[1:2] < b"\x20" and start[2:3] == b"\x12"


def kind_of_archive(archive: zipfile.ZipFile) -> str:
    """What a zip archive is that is none of torch's weights."""
    names = [name for name in archive.namelist() if not name.endswith("/")]
    if names and all(name.endswith(".npy") for name in names):
        return NUMPY
    if any(name.endswith(("archive_format", "exported_program.json")) for name in names):
        return "a program of torch.export; save its tensors: torch.export.load(FILE).state_dict"
    roots = [name.removesuffix(PICKLE) for name in names if f"/{name}".endswith(f"/{PICKLE}")]
    if len(roots) == 1 and any(name.startswith(f"{roots[0]}data/") for name in names):
        return (
            "an archive of torch's that was zipped again without its top folder, or with more; "
            f"unpack it so that {PICKLE} lies in one folder w, and zip that: zip -0 -r w.pth w"
        )
    return f"a zip archive of {len(names)} files, not torch's; {UNPACK}"

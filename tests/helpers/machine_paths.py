"""Paths of the machine that wrote a file, which must not be in it."""

import zipfile
from pathlib import Path

import torch

import resnets


def paths_of_this_machine(artifact: Path) -> list[bytes]:
    """Folders of the exporting machine that the artifact's bytes name."""
    data = artifact.read_bytes()
    if zipfile.is_zipfile(artifact):
        with zipfile.ZipFile(artifact) as archive:
            data = b"".join(archive.read(name) for name in archive.namelist())
    folders = (Path(resnets.__file__).parent, Path(torch.__file__).parent)
    return [bytes(folder) for folder in folders if bytes(folder) in data]

"""Members of a tar that are stored without their zeros: refused by name, never wrong bytes."""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from resnets.data.errors import DataError
from resnets.data.files.tar import list_tar

HOLE = 1 << 20


def sparse_file(path: Path) -> None:
    """A BMP-like file with a hole in it."""
    with open(path, "wb") as stream:
        stream.write(b"BM" + bytes(range(200)))
        stream.seek(HOLE)
        stream.write(b"end")


GNU = [
    ["--format=gnu"],
    ["--format=posix", "--sparse-version=0.0"],
    ["--format=posix", "--sparse-version=0.1"],
    ["--format=posix", "--sparse-version=1.0"],
]


@pytest.mark.parametrize("options", GNU, ids=["gnu", "0.0", "0.1", "1.0"])
@pytest.mark.parametrize("packed", [False, True])
def test_gnu_tars(tmp_path: Path, options: list[str], packed: bool) -> None:
    if shutil.which("tar") is None or b"GNU" not in subprocess.check_output(["tar", "--version"]):
        pytest.skip("no GNU tar here")
    (tmp_path / "set" / "a").mkdir(parents=True)
    sparse_file(tmp_path / "set" / "a" / "holes.bmp")
    (tmp_path / "set" / "a" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    archive = tmp_path / ("set.tar.gz" if packed else "set.tar")
    command = ["tar", "-cSf", archive, *options, "-C", tmp_path / "set", "a"]
    subprocess.run([*command, "-z"] if packed else command, check=True)
    with tarfile.open(archive) as tar:
        if not any(member.issparse() for member in tar):
            pytest.skip("this disk has no holes")
    with pytest.raises(DataError, match=r"set\.tar.*:a/holes\.bmp"):
        list_tar(archive)
    os.rename(tmp_path / "set" / "a" / "holes.bmp", tmp_path / "set" / "a" / "holes.txt")
    subprocess.run([*command, "-z"] if packed else command, check=True)
    assert list_tar(archive).paths == ["a/b.png"]  # what is not wanted may be sparse


def test_sparse_members_of_other_makers(tmp_path: Path) -> None:
    archive = tmp_path / "star.tar"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo("a/1.png")
        entry.pax_headers = {"SCHILY.realsize": "100"}
        tar.addfile(entry)
    with pytest.raises(DataError, match=r"star\.tar:a/1\.png"):
        list_tar(archive)

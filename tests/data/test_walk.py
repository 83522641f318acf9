"""One folder walker: which files are images, which links are followed, what is counted."""

import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnets.bulk.image_index import index_dataset
from resnets.config import DataSpec
from resnets.data import DataError, open_data
from resnets.data.files import walk as walking
from resnets.data.files.archives import list_archive, list_zip
from resnets.data.files.folder import list_folder
from resnets.data.files.tar import list_tar
from resnets.data.files.walk import (
    BROKEN_LINK,
    HIDDEN,
    LOOP,
    NOT_IMAGE,
    SPECIAL,
    SkippedFiles,
    walk_images,
    walk_unlabeled,
)
from resnets.detect.images.store import open_store
from resnets.evaluate.data.match_classes import open_unlabeled
from resnets.evaluate.predict import find_images

WHOLE = DataSpec(val_fraction=0, test_fraction=0, in_memory="never")


def encoded(form: str = "JPEG", seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def write(root: Path, *paths: str, data: bytes | None = None) -> None:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(encoded(seed=number) if data is None else data)


def walked(root: Path) -> tuple[list[str], SkippedFiles]:
    skipped = SkippedFiles()
    return list(walk_images(root, skipped)), skipped


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF"])
@pytest.mark.parametrize("name", ["IMG_7", "2024.01.07", "x.jpg_large", "x.jpg!d"])
def test_files_without_a_known_suffix_are_recognized_by_their_bytes(tmp_path, form, name) -> None:
    write(tmp_path, name, data=encoded(form))
    write(tmp_path, "README", "BM", data=b"BMW and other cars, a list of them all for a text file")
    found, skipped = walked(tmp_path)
    assert found == [name]
    assert skipped.counts == {(NOT_IMAGE, ""): 2}


def test_what_is_excluded_is_counted_by_reason_and_suffix(tmp_path: Path) -> None:
    write(tmp_path, "a/1.JFIF", "a/2.mpo", "a/3.jpg")
    write(tmp_path, "a/n.txt", "a/m.txt", "a/labels.csv", "a/raw.dng", data=b"II*\0 text")
    write(tmp_path, "@eaDir/1.jpg", "__MACOSX/a/._1.jpg", ".thumbnails/1.jpg", "a/Thumbs.db")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    (tmp_path / "a" / "gone").symlink_to("nowhere")
    found, skipped = walked(tmp_path)
    assert found == ["a/1.JFIF", "a/2.mpo", "a/3.jpg"]
    assert skipped.counts == {
        (NOT_IMAGE, ".txt"): 2, (NOT_IMAGE, ".csv"): 1, (walking.UNSUPPORTED, ".dng"): 1,
        (HIDDEN, ""): 4, (SPECIAL, ".jpg"): 1, (BROKEN_LINK, ""): 1,
    }  # fmt: skip
    assert skipped.total == 10


def test_bins_and_snapshots_of_network_storage_are_not_classes(tmp_path: Path) -> None:
    system = (
        "#snapshot",
        "@Recycle",
        "@Recently-Snapshot",
        "~snapshot",
        "$RECYCLE.BIN",
        "#recycle",
        "System Volume Information",
        "lost+found",
        "@GMT-2026.10.01-00.00.01",
        ".@__thumb",
    )
    write(tmp_path, "cat/1.jpg", "#cats/1.jpg", "@ann/1.jpg")
    write(tmp_path, *(f"{name}/cat/1.jpg" for name in system))
    found, skipped = walked(tmp_path)
    assert found == ["#cats/1.jpg", "@ann/1.jpg", "cat/1.jpg"]
    assert skipped.counts == {(HIDDEN, ""): len(system)}


def test_heic_without_its_reader_is_excluded_with_the_remedy(tmp_path, monkeypatch) -> None:
    head = b"\0\0\0\x18ftypheic" + bytes(40)
    write(tmp_path, "a/1.HEIC", "a/2", data=head)
    monkeypatch.setattr(walking, "heif_available", lambda: False)
    found, skipped = walked(tmp_path)
    assert found == []
    assert all("pip install" in reason for reason, _ in skipped.counts)
    assert skipped.counts.total() == 2
    with pytest.raises(DataError, match="pip install"):
        find_images([tmp_path])
    monkeypatch.setattr(walking, "heif_available", lambda: True)
    assert walked(tmp_path)[0] == ["a/1.HEIC", "a/2"]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    root, store = tmp_path / "root", tmp_path / "store"
    write(store, "ship/1.jpg", "ship/2.jpg", "one.jpg")
    write(root, "cat/1.jpg")
    (root / "ship").symlink_to(store / "ship")
    (root / "deep").mkdir()
    (root / "deep" / "again").symlink_to("../ship")
    (root / "cat" / "2.jpg").symlink_to(store / "one.jpg")
    (root / "cat" / "up").symlink_to("..")
    (root / "all").symlink_to(tmp_path)  # a folder that holds the root
    (store / "ship" / "self").symlink_to(store / "ship")
    found, skipped = walked(root)
    assert found == [
        "cat/1.jpg", "cat/2.jpg", "deep/again/1.jpg", "deep/again/2.jpg", "ship/1.jpg", "ship/2.jpg"
    ]  # fmt: skip
    assert skipped.links == 2
    assert skipped.counts == {(LOOP, ""): 4}


def test_links_to_links_do_not_multiply_without_end(tmp_path: Path) -> None:
    for level in range(14):
        (tmp_path / f"{level}").mkdir()
        for name in "ab":
            (tmp_path / f"{level}" / name).symlink_to(tmp_path / f"{level + 1}")
    write(tmp_path, "14/1.jpg")
    with pytest.raises(DataError, match="links"):
        walked(tmp_path)


def test_names_that_are_not_utf8_are_walked(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    write(tmp_path, f"a/{name}")
    assert walked(tmp_path)[0] == [f"a/{name}"]


def test_all_commands_see_the_same_images(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, "top.jpg", "a/1.jfif", "a/b/2", "a/@eaDir/3.jpg", ".git/4.jpg")
    (root / "link").symlink_to(root / "a" / "b")
    expected = ["a/1.jfif", "a/b/2", "link/2", "top.jpg"]
    assert list(list_folder(root).paths) == expected
    assert [each.relative_to(root).as_posix() for each in find_images([root])] == expected
    assert list(open_unlabeled(str(root)).files.paths) == expected
    assert sorted(open_store(str(root)).rows) == expected
    assert list(walk_unlabeled(root)) == expected
    (tmp_path / "work").mkdir()
    assert index_dataset(str(root), tmp_path / "work").count == len(expected)


def zipped(path: Path, fill: Callable[[zipfile.ZipFile], None], **options: object) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        fill(archive)
    return path


def fill_classes(archive: zipfile.ZipFile) -> None:
    for number in range(6):
        archive.writestr(f"set/{'cat' if number % 2 else 'dog'}/{number}.jpg", encoded(seed=number))
    archive.writestr("set/notes.txt", "x")
    archive.writestr("__MACOSX/set/cat/._1.jpg", b"\0\5\x16\7")


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_zip_is_read_like_the_folder(tmp_path: Path, method: int) -> None:
    archive = zipped(tmp_path / "set.zip", fill_classes, compression=method)
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "out")
    folder = open_data(replace(WHOLE, source=str(tmp_path / "out"))).train
    ours = open_data(replace(WHOLE, source=str(archive))).train
    assert ours.classes == folder.classes == ("cat", "dog")
    assert ours.labels.tolist() == folder.labels.tolist()
    for row in range(6):
        assert ours.files.read(row) == folder.files.read(row)
    assert list_archive(archive).skipped.counts == {(NOT_IMAGE, ".txt"): 1, (HIDDEN, ""): 1}
    assert len(open_store(str(archive)).rows) == 7
    (tmp_path / "work").mkdir()
    assert index_dataset(str(archive), tmp_path / "work").count == 6


def test_bad_zips_are_refused_by_name(tmp_path: Path) -> None:
    good = zipped(tmp_path / "good.zip", fill_classes, compression=zipfile.ZIP_DEFLATED)
    data = bytearray(good.read_bytes())
    cut = tmp_path / "cut.zip"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cut.zip"):
        list_zip(cut)
    locked = bytearray(data)
    for magic, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        place = -1
        while (place := locked.find(magic, place + 1)) >= 0:
            locked[place + offset] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    with pytest.raises(DataError, match="encrypted"):
        open_data(replace(WHOLE, source=str(tmp_path / "locked.zip")))
    spoilt = bytearray(data)
    spoilt[80:100] = bytes(20)  # within the first image
    (tmp_path / "spoilt.zip").write_bytes(spoilt)
    files = open_data(replace(WHOLE, source=str(tmp_path / "spoilt.zip"))).train.files
    with pytest.raises(DataError, match=r"spoilt.zip:set"):
        [files.read(row) for row in range(len(files))]


def test_zip_names_are_read_as_they_were_meant(tmp_path: Path, monkeypatch) -> None:
    def fill(archive: zipfile.ZipFile) -> None:
        archive.writestr("caf\u00e9\\1.jpg", encoded())
        archive.writestr("猫\\1.jpg", encoded())

    def unflagged(self: zipfile.ZipInfo) -> tuple[bytes, int]:
        return self.filename.encode("utf-8"), self.flag_bits  # as macOS writes them

    monkeypatch.setattr(zipfile.ZipInfo, "_encodeFilenameFlags", unflagged)
    archive = zipped(tmp_path / "names.zip", fill)
    assert list(list_zip(archive).paths) == ["caf\u00e9/1.jpg", "猫/1.jpg"]


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"7z\xbc\xaf\x27\x1c\0\4", "7-Zip"), (b"Rar!\x1a\x07\x01\0", "RAR"),
        (b"\x28\xb5\x2f\xfd", "Zstandard"), (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x89PNG\r\n\x1a\n", "one image"), (b"<!DOCTYPE html>", "HTML"), (b"", "empty"),
    ],
)  # fmt: skip
def test_what_is_not_an_archive_is_named_by_its_bytes(tmp_path: Path, head, kind) -> None:
    path = tmp_path / "set.bin"
    path.write_bytes(head + bytes(200) * bool(head))
    with pytest.raises(DataError, match=kind):
        list_archive(path)
    with pytest.raises(DataError, match=kind):
        open_data(DataSpec(source=str(path)))


def test_archives_in_a_folder_or_zip_are_named(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    zipped(tmp_path / "set" / "train.zip", fill_classes)
    both = zipped(tmp_path / "both.zip", lambda z: z.write(tmp_path / "set/train.zip", "a.zip"))
    for source in (tmp_path / "set", both):
        with pytest.raises(DataError, match="archives within it"):
            open_data(DataSpec(source=str(source)))


def test_links_in_a_tar_bring_the_folders_they_lead_to(tmp_path: Path) -> None:
    import tarfile

    write(tmp_path, "store/ship/1.jpg", "root/train/cat/1.jpg", "root/train/dog/1.jpg")
    (tmp_path / "root" / "train" / "ship").symlink_to("../../store/ship")
    (tmp_path / "root" / "train" / "boat").symlink_to("ship")  # by way of a link
    (tmp_path / "root" / "train" / "loop").symlink_to("../train")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(tmp_path / "store", "store")
        tar.add(tmp_path / "root", "root")
    listing = list_tar(tmp_path / "set.tar")
    assert [path for path in listing.paths if path.startswith("root")] == [
        "root/train/boat/1.jpg", "root/train/cat/1.jpg", "root/train/dog/1.jpg",
        "root/train/ship/1.jpg",
    ]  # fmt: skip
    assert listing.skipped.counts == {(LOOP, ""): 1}
    assert listing.skipped.links == 2

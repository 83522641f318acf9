"""Packed sets: the same images, parts and labels as the raw set, and nothing half written."""

import hashlib
import io
import json
import shutil
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from resnets.config import AugmentSpec, ConfigError, DataSpec
from resnets.data import DataError, TrainStream, fit_preprocess, open_data
from resnets.data.dataset import pack as packing
from resnets.data.dataset.quarantine_list import Quarantine
from resnets.data.decode.decode import (
    Crop,
    center_box,
    decode_whole,
    encode_pnm,
    grid_box,
    read_pnm,
    scaled_size,
)
from resnets.data.loading.pack_write import PackReport, pack
from resnets.data.sources.open import find_source
from resnets.data.transforms.augment import train_views
from resnets.ops import resize as resizing
from resnets.ops.resize import resize_with_torch

CPU = torch.device("cpu")
WHOLE = DataSpec(val_fraction=0, test_fraction=0, size=48, resize=56, in_memory="never")
RANDOM = AugmentSpec(crop="random-resized", scale=(0.2, 1.0), flip=True)
JITTER = AugmentSpec(crop="scale-jitter", scale=(50, 90), flip=True)


def photo(seed: int, width: int, height: int) -> Image.Image:
    """Something smooth with edges in it, as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/, val/ and test/ of two classes; PNG, so that decoders cannot differ."""
    root = tmp_path_factory.mktemp("sets") / "pets"
    for number in range(40):
        part = "train" if number < 26 else "val" if number < 34 else "test"
        folder = root / part / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        size = 60 + 3 * number, 140 - 2 * number
        photo(number, *size).save(folder / f"{number:02}.png")
    return root


def write(source: Path, out: Path, size: int = 64, **options) -> PackReport:
    spec = replace(WHOLE, source=str(source))
    quarantine = options.pop("quarantine", Quarantine.of(spec))
    return pack(find_source(spec), out, size, quarantine=quarantine, **options)


@pytest.fixture(scope="module")
def packed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packs") / "pets.pack"
    write(photos, out)
    return out


def copy(packed: Path, folder: Path) -> Path:
    return Path(shutil.copy(packed, folder / "copy.pack"))


def test_parts_classes_labels_and_names_survive(photos: Path, packed: Path) -> None:
    raw = open_data(replace(WHOLE, source=str(photos)))
    ours = open_data(replace(WHOLE, source=str(packed)))
    assert ours.classes == raw.classes == ("cat", "dog")
    assert ours.name == "pets packed at 64 px"
    for name in ("train", "val", "test"):
        one, other = getattr(ours, name), getattr(raw, name)
        one, other = (one(), other()) if name == "test" else (one, other)
        assert torch.equal(one.labels, other.labels)
        assert one.description == f"pets packed at 64 px {name}, {len(other)} images"
        names = [one.files.name(row).removeprefix(f"{packed}:") for row in range(len(one))]
        assert names == [
            str(Path(other.files.name(r)).relative_to(photos)) for r in range(len(one))
        ]


def test_images_are_scaled_down_to_the_size_and_never_up(photos: Path, packed: Path) -> None:
    raw = open_data(replace(WHOLE, source=str(photos))).train.files
    ours = open_data(replace(WHOLE, source=str(packed))).train.files
    shorter = []
    for row in range(len(raw)):
        stored = decode_whole(raw.read(row), "raw")
        if min(stored.shape[:2]) > 64:
            size = scaled_size(stored.shape[1], stored.shape[0], 64)
            stored = np.array(Image.fromarray(stored).resize(size, Image.Resampling.BILINEAR))
        assert np.array_equal(read_pnm(ours.read(row)), stored)
        shorter.append(min(stored.shape[:2]))
    assert max(shorter) == 64 > min(shorter)


def test_the_file_is_as_documented(photos: Path, packed: Path) -> None:
    """Read by its documentation alone."""
    data = packed.read_bytes()
    magic, version, zero, offset, length, checksum = struct.unpack("<8sIIQQ32s", data[:64])
    assert (magic, version, zero) == (b"RESNPACK", 1, 0)
    assert offset + length == len(data)
    assert hashlib.sha256(data[offset:]).digest() == checksum
    index = json.loads(data[offset:])
    assert (index["name"], index["size"], index["classes"]) == ("pets", 64, ["cat", "dog"])
    end = 64
    for role in ("train", "val", "test"):
        part = index["parts"][role]
        assert part["start"] == end
        columns = (part[name] for name in ("names", "labels", "bytes", "crc32"))
        for name, label, size, crc32 in zip(*columns, strict=True):
            picture = data[end : end + size]
            assert zlib.crc32(picture) == crc32
            with Image.open(io.BytesIO(picture)) as image, Image.open(photos / name) as raw:
                assert image.format == "PPM"
                assert image.size == scaled_size(*raw.size, min(64, *raw.size))
            assert index["classes"][label] == name.split("/")[1]
            end += size
    assert end == offset


def test_all_kinds_of_images_are_stored_as_they_are_read(tmp_path: Path) -> None:
    root = tmp_path / "odd"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
    picture = photo(1, 40, 30)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(root / "a" / "turned.jpg", exif=exif)
    picture.convert("L").save(root / "a" / "grey.png")
    picture.convert("CMYK").save(root / "a" / "cmyk.jpg")
    picture.convert("P").save(root / "b" / "palette.gif")
    alpha = picture.convert("RGBA")
    alpha.putalpha(photo(2, 40, 30).convert("L"))
    alpha.save(root / "b" / "alpha.png")
    deep = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50
    Image.fromarray(deep).save(root / "b" / "deep.png")
    out = tmp_path / "odd.pack"
    assert write(root, out).images == {"train": 6}
    raw = open_data(replace(WHOLE, source=str(root))).train
    ours = open_data(replace(WHOLE, source=str(out))).train
    planes = {}
    for row in range(6):
        name = Path(raw.files.name(row)).name
        stored = read_pnm(ours.files.read(row))
        planes[name] = stored.shape[2]
        whole = decode_whole(raw.files.read(row), name)
        assert np.array_equal(np.broadcast_to(stored, whole.shape), whole), name
        for channels in (1, 3):
            view = Crop(24, channels, center_box(24, 28))
            difference = np.abs(ours.read(row, view).astype(int) - raw.read(row, view))
            assert difference.mean() < 1.5, name
    assert planes.pop("grey.png") == planes.pop("deep.png") == 1
    assert set(planes.values()) == {3}


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("augment", [JITTER, RANDOM, AugmentSpec()])
def test_views_are_those_of_the_raw_images(
    photos: Path,
    tmp_path: Path,
    augment: AugmentSpec,
    interpolation: str,
    native: bool,
    monkeypatch,
) -> None:
    """Nothing was scaled down, so what is left is the resize; at most 2 of 255 by Pillow's."""
    if not native:
        monkeypatch.setattr(resizing, "kernel", lambda: None)
    out = tmp_path / "whole.pack"
    write(photos, out, 500)
    spec = replace(WHOLE, source=str(out), augment=augment)
    split = open_data(spec).train
    preprocessor = fit_preprocess(split, replace(spec, normalize="imagenet"), 3)
    rows = np.arange(len(split))
    views = train_views(augment, preprocessor, 3, np.zeros_like(rows), rows)
    # Without the kernel, a random box is resized alone: at its edge nothing outside counts.
    inner = slice(4, -4) if augment.crop == "random-resized" and not native else slice(None)
    for row, view in enumerate(views):
        view = replace(view, interpolation=interpolation)
        picture = Image.fromarray(read_pnm(split.files.read(row)))
        box = view.box(*picture.size)
        box = (*box[:2], min(box[2], picture.width), min(box[3], picture.height))
        method = Image.Resampling[interpolation.upper()]
        wanted = np.array(picture.resize((48, 48), method, box)).astype(int)
        difference = np.abs(split.read(row, view) - wanted)[inner, inner]
        assert difference.max() <= 2
        assert difference.mean() < 0.5


def test_evaluation_of_a_set_packed_at_its_test_size_is_that_of_the_raw_set(
    photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "test.pack"
    write(photos, out, WHOLE.resize)
    raw = open_data(replace(WHOLE, source=str(photos))).test()
    ours = open_data(replace(WHOLE, source=str(out))).test()
    view = Crop(48, 3, center_box(48, 56))
    for row in range(len(raw)):
        difference = ours.read(row, view).astype(int) - raw.read(row, view)
        assert np.abs(difference).max() <= 2
        assert np.abs(difference).mean() < 0.5


def test_torch_resizes_whole_pixel_boxes_as_torchvision_does() -> None:
    from torchvision.transforms import functional as F

    rng = np.random.default_rng(0)
    for _ in range(40):
        pixels = np.array(photo(int(rng.integers(100)), *rng.integers(60, 200, 2).tolist()))
        top, left = rng.integers(1, 20, 2).tolist()
        high, wide = rng.integers(25, 40, 2).tolist()
        ours = resize_with_torch(pixels, (left, top, left + wide, top + high), 32)
        theirs = F.resized_crop(Image.fromarray(pixels), top, left, high, wide, [32, 32])
        if left * 32 % wide and top * 32 % high:  # off the grid of the scaled image
            assert np.abs(ours.astype(int) - np.array(theirs)).max() <= 1
    assert resize_with_torch(pixels, (0.3, 0.3, 30.3, 30.3), 32) is None


def test_torch_resizes_boxes_on_the_grid_with_what_lies_around_them() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        width, height = rng.integers(40, 160, 2).tolist()
        pixels = np.array(photo(int(rng.integers(100)), width, height))
        side = int(rng.integers(32, 120))
        wide, high = scaled_size(width, height, side)
        left, top = int(rng.integers(wide - 31)), int(rng.integers(high - 31))
        box = grid_box(width, height, side, (left, top, left + 32, top + 32))
        inside = (*box[:2], min(box[2], width), min(box[3], height))
        ours = resize_with_torch(pixels, box, 32)
        wanted = np.array(Image.fromarray(pixels).resize((32, 32), Image.BILINEAR, inside))
        assert np.abs(ours.astype(int) - wanted).max() <= 2


def test_the_same_images_are_held_out_although_some_were_excluded(tmp_path: Path) -> None:
    root = tmp_path / "flat"
    for number in range(60):
        folder = root / "xyz"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        photo(number, 20, 20).save(folder / f"{number:02}.png")
    for name in ("x/09.png", "y/13.png"):
        (root / name).write_bytes(b"no image")
    (root / "quarantine.txt").write_text("z/05.png\tugly\nz/29.png\tugly\n")
    out = tmp_path / "flat.pack"
    result = write(root, out, max_unreadable=0.1)
    assert result.images == {"train": 56}
    assert [each.split(":")[0][-8:] for each in result.unreadable] == ["x/09.png", "y/13.png"]
    spec = DataSpec(size=16, in_memory="never", split_seed=3)
    raw, ours = (open_data(replace(spec, source=str(each))) for each in (root, out))
    gone = {"x/09.png", "y/13.png", "z/05.png", "z/29.png"}
    for one, other in ((ours.train, raw.train), (ours.val, raw.val), (ours.test(), raw.test())):
        names = {one.files.name(row).removeprefix(f"{out}:") for row in range(len(one))}
        wanted = {str(Path(other.files.name(r)).relative_to(root)) for r in range(len(other))}
        assert names == wanted - gone
        assert not names & gone


def test_batches_do_not_depend_on_workers_or_the_start(packed: Path) -> None:
    spec = replace(WHOLE, source=str(packed), augment=RANDOM, normalize="imagenet")

    def stream(workers: int) -> TrainStream:
        chosen = replace(spec, workers=workers)
        train = open_data(chosen).train
        return TrainStream(train, chosen, fit_preprocess(train, chosen, 3), 8, 5, CPU)

    whole = list(islice(stream(1).batches(), 7))
    assert stream(1).timings.packed
    for start in (0, 4):
        again = islice(stream(3).batches(start), 3)
        for one, other in zip(again, whole[start:], strict=False):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.targets, other.targets)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread, so that none is counted as busy while it waits for another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="torch has no vector kernels here"
)
@pytest.mark.usefixtures("one_thread")
def test_a_packed_set_is_read_many_times_faster_than_torchvision_reads_the_raw_one(
    tmp_path: Path,
) -> None:
    """CPU time for a random crop of 224 px out of 500x375; measured at 8 to 13 times."""
    from torchvision import transforms

    root = tmp_path / "big"
    for number in range(12):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).normal(0, 12, (375, 500, 3))
        pixels = np.clip(np.array(photo(number, 500, 375)) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)
    out = tmp_path / "big.pack"
    write(root, out, 400)
    theirs = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    files = sorted(root.rglob("*.jpg"))
    split = open_data(replace(WHOLE, source=str(out))).train
    view = Crop(224, 3, lambda width, height: (20, 11, 20 + 0.7 * width // 1, 11 + 240))

    def raw() -> None:
        for path in files:
            with Image.open(path) as image:
                theirs(image.convert("RGB"))

    def ours() -> None:
        for row in range(len(split)):
            split.read(row, view)

    def seconds(work) -> float:
        start = time.thread_time()
        work()
        return time.thread_time() - start

    # In turn, and the least of each: who else computes here slows both down, now and then.
    took = [(seconds(raw), seconds(ours)) for _ in range(6)]
    theirs_took, ours_took = (min(each) for each in zip(*took, strict=True))
    assert theirs_took > 4 * ours_took


def damages(data: bytes) -> Iterator[tuple[bytes, str]]:
    """A packed file damaged in several ways, and what is said of each."""
    offset = struct.unpack_from("<Q", data, 16)[0]
    yield b"", "not a packed data set"
    yield b"PK" + data[2:], "not a packed data set"
    yield data[:40], "cut short after 40 bytes"
    for length in (64, 1000, offset, len(data) - 1):
        yield data[:length], f"{length:,} bytes, but its header states {len(data):,}"
    yield data + b"x", "bytes, but its header states"
    yield data[:8] + struct.pack("<I", 2) + data[12:], "version 2 .* reads version 1"
    for place in (offset, offset + 30, len(data) - 2, 35):
        changed = bytearray(data)
        changed[place] ^= 1
        yield bytes(changed), "its index is damaged"


def test_damaged_files_give_one_clear_line(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.pack"
    for data, said in damages(packed.read_bytes()):
        path.write_bytes(data)
        with pytest.raises(DataError, match=said) as error:
            open_data(replace(WHOLE, source=str(path)))
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no such"):
        packing.open_pack(tmp_path / "none.pack")


def test_an_index_of_another_writer_is_refused(packed: Path, tmp_path: Path) -> None:
    data = packed.read_bytes()
    offset = struct.unpack_from("<Q", data, 16)[0]
    index = json.loads(data[offset:])
    for change in (
        lambda index: index.pop("classes"),
        lambda index: index["parts"]["train"]["labels"].pop(),
        lambda index: index["parts"].pop("train"),
    ):
        other = json.loads(json.dumps(index))
        change(other)
        text = json.dumps(other).encode()
        head = struct.pack(
            "<8sIIQQ32s", b"RESNPACK", 1, 0, offset, len(text), hashlib.sha256(text).digest()
        )
        path = tmp_path / "other.pack"
        path.write_bytes(head + data[64:offset] + text)
        with pytest.raises(DataError, match="the index"):
            packing.open_pack(path)


def test_changed_pixels_are_found_by_verify(packed: Path, tmp_path: Path) -> None:
    count, found = packing.verify_images(packed)
    assert count == 40
    assert all(whole for _, whole in found)
    path = copy(packed, tmp_path)
    source = packing.open_pack(path)
    offset, size = source.train.files.spans[7].tolist()
    with path.open("r+b") as file:
        file.seek(offset + size - 5)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 8]))
    bad = [name for name, whole in packing.verify_images(path)[1] if not whole]
    assert bad == [source.train.files.name(7)]


def test_an_image_whose_header_is_damaged_is_named_when_read(packed: Path, tmp_path: Path) -> None:
    path = copy(packed, tmp_path)
    offset = int(packing.open_pack(path).train.files.spans[3, 0])
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"P9")
    split = open_data(replace(WHOLE, source=str(path))).train
    with pytest.raises(DataError, match=r"copy\.pack:train/cat/07\.png"):
        split.read(3, Crop(8, 3, center_box(8, 8)))


def broken_copy(photos: Path, folder: Path, *names: str) -> Path:
    root = shutil.copytree(photos, folder / "broken")
    for name in names:
        path = root / name
        path.write_bytes(path.read_bytes()[:200])
    return root


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "pack" in path.name)


def test_too_many_unreadable_images_leave_no_file(photos: Path, tmp_path: Path) -> None:
    root = broken_copy(photos, tmp_path, "train/cat/01.png", "train/dog/02.png")
    with pytest.raises(DataError, match=r"2.*train/cat/01\.png"):
        write(root, tmp_path / "b.pack", max_unreadable=0.05)
    assert leftovers(tmp_path) == []
    assert write(root, tmp_path / "b.pack", max_unreadable=0.1).images["train"] == 24


def test_a_class_without_readable_images_is_an_error(photos: Path, tmp_path: Path) -> None:
    names = [f"val/cat/{number}.png" for number in (27, 29, 31, 33)]
    root = broken_copy(photos, tmp_path, *names)
    with pytest.raises(DataError, match="broken val: no image of class cat is left"):
        write(root, tmp_path / "b.pack", max_unreadable=0.9)
    assert leftovers(tmp_path) == []


def test_a_full_disk_is_reported_before_anything_is_written(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    with pytest.raises(DataError, match=r"0\.0 GB.*--size 64"):
        write(photos, tmp_path / "b.pack")
    assert leftovers(tmp_path) == []


def test_an_interrupted_packing_leaves_no_file(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnets.data.loading import pack_write

    calls = []

    def stop(pixels: np.ndarray) -> bytes:
        calls.append(1)
        if len(calls) > 10:
            raise KeyboardInterrupt
        return encode_pnm(pixels)

    monkeypatch.setattr(pack_write, "encode_pnm", stop)
    with pytest.raises(KeyboardInterrupt):
        write(photos, tmp_path / "b.pack")
    assert leftovers(tmp_path) == []


def test_what_cannot_be_packed(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="digits: is not stored as encoded images"):
        write(Path("digits"), tmp_path / "d.pack")
    with pytest.raises(ConfigError, match="--size 0"):
        write(photos, tmp_path / "d.pack", 0)


def test_a_packed_set_can_be_packed_smaller(packed: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.pack"
    assert write(packed, out, 32).images == {"train": 26, "val": 8, "test": 6}
    files = open_data(replace(WHOLE, source=str(out))).train.files
    assert files.name(0) == f"{out}:train/cat/01.png"
    assert max(min(read_pnm(files.read(row)).shape[:2]) for row in range(26)) == 32


def test_imagenette_is_packed_and_trained_on(shared_data: Path, tmp_path: Path) -> None:
    """Real photographs: 100 of each class, packed at 96 px."""
    import tarfile

    with tarfile.open(shared_data / "imagenette160.tar") as tar:
        chosen = [m for m in tar if m.isfile() and "/val/" in m.name]
        tar.extractall(tmp_path / "raw", members=chosen[::5], filter="data")
    out = tmp_path / "nette.pack"
    result = write(tmp_path / "raw" / "imagenette" / "val", out, 96)
    assert result.images == {"train": 200}
    assert result.size == out.stat().st_size
    spec = replace(WHOLE, source=str(out), augment=RANDOM, normalize="imagenet")
    train = open_data(spec).train
    batch = next(TrainStream(train, spec, fit_preprocess(train, spec, 3), 64, 0, CPU).batches())
    assert batch.images.shape == (64, 3, 48, 48)
    assert 0.6 < batch.images.std() < 1.6

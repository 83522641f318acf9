"""Sets by name and by path: classes, shares, order, and what bad input says."""

import pickle
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from resnets.config import AugmentSpec, ConfigError, DataSpec
from resnets.data import DataError, FileSplit, TensorSplit, open_data
from resnets.data.dataset.image_identity import hash_names, hold_out
from resnets.data.files.tar import list_tar
from resnets.data.sources.binary.idx import DEBIAN_FASHION_MNIST
from resnets.data.sources.builtin import fetch_fashion_mnist

WHOLE = DataSpec(val_fraction=0, test_fraction=0)


def write_images(folder: Path, count: int, size: tuple[int, int] = (8, 8), start: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        pixels = np.random.default_rng([number, *size]).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """root/{ant,bee,cow} with 10, 10 and 20 images."""
    for number, (name, count) in enumerate((("bee", 10), ("ant", 10), ("cow", 20))):
        write_images(tmp_path / "root" / name, count, start=100 * number)
    return tmp_path / "root"


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    """root/{train,val,test}/{ant,bee}."""
    for number, (part, count) in enumerate((("train", 8), ("val", 3), ("test", 2))):
        for name in ("bee", "ant"):
            write_images(tmp_path / "set" / part / name, count, start=100 * number)
    return tmp_path / "set"


def pack(folder: Path, archive: Path, mode: str) -> Path:
    with tarfile.open(archive, mode) as tar:
        tar.add(folder, folder.name)
    return archive


def test_digits_are_split_by_class_and_seed() -> None:
    splits = open_data(DataSpec(source="digits"))
    test = splits.test()
    assert (len(splits.train), len(splits.val), len(test)) == (1269, 169, 359)
    assert splits.train.images.shape == (1269, 16, 16, 1)
    assert splits.classes == tuple("0123456789")
    assert test.description == "digits, test share (seed 0), 359 images"
    for split, count in ((splits.train, 126), (splits.val, 18), (test, 36)):
        counts = torch.bincount(split.labels).float()
        assert (counts - count).abs().max() < 4 * count**0.5  # drawn image by image
    again, other = open_data(DataSpec()), open_data(DataSpec(split_seed=1))
    assert torch.equal(again.train.images, splits.train.images)
    assert not torch.equal(other.train.labels, splits.train.labels)
    images = torch.cat([each.images.flatten(1) for each in (splits.train, splits.val, test)])
    assert len(torch.unique(images, dim=0)) == 1797  # nothing doubled, nothing lost


def test_digits_are_the_originals_upsampled() -> None:
    from sklearn.datasets import load_digits

    images = open_data(WHOLE).train.images[..., 0].numpy()
    stored = np.pad(load_digits().images * 255 / 16, ((0, 0), (1, 1), (1, 1)), "edge")
    for axis in (1, 2):  # each pixel becomes two, a quarter of the way to its neighbours
        before, here, after = (np.roll(stored, step, axis) for step in (1, 0, -1))
        pair = np.stack([0.75 * here + 0.25 * before, 0.75 * here + 0.25 * after], axis + 1)
        stored = np.concatenate(np.split(pair, pair.shape[axis], axis), axis + 1).squeeze(axis)
    assert images.max() == 255
    assert np.abs(images - stored[:, 2:-2, 2:-2]).max() <= 0.5 + 1e-4


def test_hold_out_takes_a_share_of_each_class() -> None:
    labels = np.repeat([0, 1, 2, 3], [100, 50, 3, 1])
    ids = hash_names(list(map(str, range(154))))
    train, val, test = hold_out(labels, ids, val_fraction=0.1, test_fraction=0.2, seed=0)
    assert sorted([*train, *val, *test]) == list(range(154))
    assert np.bincount(labels[test]).tolist() == [23, 10, 1]
    assert np.bincount(labels[val]).tolist() == [5, 5, 1]
    assert np.bincount(labels[train]).tolist() == [72, 35, 1, 1]
    none = hold_out(labels, ids, val_fraction=0, test_fraction=0, seed=0)
    assert [len(rows) for rows in none] == [154, 0, 0]


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="dataset-fashion-mnist missing")
def test_fashion_mnist_by_name_and_by_path() -> None:
    named = open_data(DataSpec(source="fashion-mnist"))
    assert (len(named.train), len(named.val)) == (53_946, 6_054)
    assert named.classes[9] == "Ankle boot"
    counts = [573, 596, 629, 583, 577, 627, 642, 618, 622, 587]
    assert torch.bincount(named.val.labels).tolist() == counts
    by_path = open_data(DataSpec(source=str(DEBIAN_FASHION_MNIST)))
    assert by_path.classes == tuple("0123456789")
    assert torch.equal(by_path.train.images, named.train.images)
    test = named.test()
    assert test.description == "fashion-mnist test, 10,000 images"
    assert test.images.shape == (10_000, 28, 28, 1)
    assert test.labels[:5].tolist() == [9, 2, 1, 1, 6]  # as published


def test_class_folders_in_memory_and_as_files_agree(tree: Path) -> None:
    (tree / "ant" / "notes.txt").write_text("no image")
    (tree / "ant" / ".hidden.png").write_text("no image")
    (tree / ".git").mkdir()
    spec = replace(WHOLE, source=str(tree))
    memory = open_data(spec).train
    files = open_data(replace(spec, in_memory="never")).train
    assert isinstance(memory, TensorSplit)
    assert isinstance(files, FileSplit)
    assert memory.classes == files.classes == ("ant", "bee", "cow")
    assert torch.bincount(memory.labels).tolist() == [10, 10, 20]
    assert torch.equal(memory.labels, files.labels)
    assert memory.description == "root, 40 images"
    first = np.asarray(Image.open(tree / "ant" / "100.png"))
    assert torch.equal(memory.images[0], torch.from_numpy(first.copy()))


@pytest.mark.parametrize(
    ("suffix", "mode"), [("tar", "w"), ("tgz", "w:gz"), ("tar.xz", "w:xz"), ("tar.bz2", "w:bz2")]
)
def test_tar_equals_its_folder(parted: Path, tmp_path: Path, suffix: str, mode: str) -> None:
    archive = pack(parted, tmp_path / f"set.{suffix}", mode)
    folder, packed = (open_data(DataSpec(source=str(path))) for path in (parted, archive))
    assert packed.name == f"set.{suffix}"
    assert packed.val.description == f"set.{suffix} val, 6 images"
    for one, two in (
        (folder.train, packed.train),
        (folder.val, packed.val),
        (folder.test(), packed.test()),
    ):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.labels, two.labels)


def test_links_inside_a_tar_are_followed(tree: Path, tmp_path: Path) -> None:
    (tree / "ant" / "hard.png").hardlink_to(tree / "ant" / "100.png")
    (tree / "ant" / "soft.png").symlink_to("../bee/000.png")
    folder = open_data(replace(WHOLE, source=str(tree))).train
    archive = pack(tree, tmp_path / "linked.tar", "w")
    assert torch.equal(open_data(replace(WHOLE, source=str(archive))).train.images, folder.images)
    (tree / "ant" / "wild.png").symlink_to("nowhere.png")
    archive = pack(tree, tmp_path / "wild.tar", "w")
    with pytest.raises(DataError, match=r"wild\.png.*root/ant/nowhere\.png"):
        open_data(DataSpec(source=str(archive)))


def test_a_loop_of_links_ends(tree: Path) -> None:
    (tree / "ant" / "loop").symlink_to(tree)
    assert len(open_data(replace(WHOLE, source=str(tree))).train) == 40


def test_order_follows_names_not_the_file_system(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for path in sorted(tree.rglob("*.png"), reverse=True):
        (copy / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy / path.parent.name)
    one, two = (open_data(DataSpec(source=str(path))) for path in (tree, copy))
    assert torch.equal(one.train.images, two.train.images)
    assert torch.equal(one.test().images, two.test().images)


def test_val_without_test_is_the_test_set(parted: Path) -> None:
    shutil.rmtree(parted / "test")
    splits = open_data(DataSpec(source=str(parted)))
    assert splits.test().description.startswith("set val")
    assert splits.val.description == "set train, validation share (seed 0), 2 images"
    assert len(splits.train) == 14
    shutil.rmtree(parted / "val")
    alone = open_data(replace(WHOLE, source=str(parted)))
    assert len(alone.train) == 16
    assert alone.val is None
    assert alone.test() is None


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_other_names_of_val(parted: Path, name: str) -> None:
    (parted / "val").rename(parted / name)
    assert open_data(DataSpec(source=str(parted))).val.description == f"set {name}, 6 images"


def test_test_images_are_not_decoded_before_test(
    parted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (parted / "test" / "ant" / "200.png").write_bytes(b"broken")
    for source in (parted, pack(parted, tmp_path / "set.tar.gz", "w:gz")):
        splits = open_data(DataSpec(source=str(source)))
        assert len(splits.train) == 16
        assert len(caplog.records) == 0
        assert len(splits.test()) == 3
        (record,) = caplog.records
        assert "test/ant/200.png" in record.message
        caplog.clear()


def test_memory_rule(tree: Path) -> None:
    write_images(tree / "ant", 1, size=(9, 12), start=99)
    spec = replace(WHOLE, source=str(tree))
    jitter = AugmentSpec(crop="scale-jitter", scale=(8, 16))
    assert isinstance(open_data(spec).train, FileSplit)
    assert isinstance(open_data(replace(spec, size=8, augment=jitter)).train, FileSplit)
    fixed = open_data(replace(spec, size=8, resize=9)).train
    assert isinstance(fixed, TensorSplit)
    assert fixed.prepared == (8, 9, "bilinear")
    assert fixed.images.shape == (41, 8, 8, 3)
    with pytest.raises(ConfigError, match=r"data\.in_memory"):
        open_data(replace(spec, in_memory="always"))


def test_an_odd_size_that_probing_misses_leaves_files(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 60)
    write_images(tmp_path / "b", 60)
    write_images(tmp_path / "b", 1, size=(8, 9), start=2)
    assert isinstance(open_data(replace(WHOLE, source=str(tmp_path))).train, FileSplit)


def test_gray_files_stay_gray(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_images(tmp_path / name, 2)
        for path in (tmp_path / name).iterdir():
            Image.open(path).convert("L").save(path)
    spec = replace(WHOLE, source=str(tmp_path))
    assert open_data(spec).train.images.shape == (4, 8, 8, 1)
    assert open_data(replace(spec, in_memory="never")).train.channels == 1
    write_images(tmp_path / "a", 1)
    assert open_data(spec).train.channels == 3
    assert open_data(replace(spec, in_memory="never")).train.channels == 3


def write_cifar(folder: Path, binary: bool, hundred: bool) -> np.ndarray:
    """Three images a file, in the layout of the authors; returns all pixels (N, 3072)."""
    folder.mkdir(parents=True)
    names = (
        ["train", "test"] if hundred else [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    )
    pixels = np.random.default_rng(0).integers(0, 256, (len(names) * 3, 3072), np.uint8)
    labels = [[0, 1, 1]] * len(names)
    for number, name in enumerate(names):
        rows = pixels[3 * number : 3 * number + 3]
        if binary:
            coarse = np.full((3, 1), 19, np.uint8)
            fine = np.array(labels[number], np.uint8)[:, None]
            parts = [coarse, fine, rows] if hundred else [fine, rows]
            (folder / f"{name}.bin").write_bytes(np.concatenate(parts, 1).tobytes())
        else:
            key = "fine_labels" if hundred else "labels"
            batch = {"data": rows.copy(), key: labels[number]}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    if binary:
        (folder / ("fine_label_names.txt" if hundred else "batches.meta.txt")).write_text(
            "cat\ndog\n\n"
        )
    else:
        key = "fine_label_names" if hundred else "label_names"
        (folder / ("meta" if hundred else "batches.meta")).write_bytes(
            pickle.dumps({key: ["cat", "dog"]}, 2)
        )
    return pixels


@pytest.mark.parametrize(
    ("folder", "binary", "hundred"),
    [
        ("cifar-10-batches-py", False, False),
        ("cifar-10-batches-bin", True, False),
        ("cifar-100-python", False, True),
        ("cifar-100-binary", True, True),
    ],
)
def test_cifar_batches(tmp_path: Path, folder: str, binary: bool, hundred: bool) -> None:
    pixels = write_cifar(tmp_path / folder, binary, hundred)
    for path in (tmp_path, tmp_path / folder):
        splits = open_data(replace(WHOLE, source=str(path)))
        stored = torch.cat([splits.train.images, splits.test().images])
        wanted = torch.from_numpy(pixels).view(-1, 3, 32, 32).permute(0, 2, 3, 1)
        assert_close(stored, wanted, rtol=0, atol=0)
        assert splits.classes == ("cat", "dog")
        assert splits.test().labels.tolist() == [0, 1, 1]
    first = next(
        path
        for path in sorted((tmp_path / folder).iterdir())
        if "train" in path.name or "_1" in path.name
    )
    first.write_bytes(first.read_bytes()[:-100])
    with pytest.raises(DataError, match=rf"{first.name}: .*fetch it again"):
        open_data(DataSpec(source=str(tmp_path)))


def test_cifar_pickles_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    write_cifar(tmp_path / "c", binary=False, hundred=False)
    (tmp_path / "c" / "data_batch_2").write_bytes(pickle.dumps({"data": Evil()}, protocol=2))
    with pytest.raises(DataError, match="data_batch_2.*CIFAR"):
        open_data(DataSpec(source=str(tmp_path / "c")))
    assert not (tmp_path / "owned").exists()


def test_cached_cifar_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path))
    write_cifar(tmp_path / "cifar-10-batches-py", binary=False, hundred=False)
    assert (
        open_data(replace(WHOLE, source="cifar10")).train.description == "cifar10 train, 15 images"
    )


def test_without_network_the_message_says_where_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR100, FashionMNIST

    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path))
    nobody = "http://127.0.0.1:9/"  # no one listens there
    monkeypatch.setattr(CIFAR100, "url", nobody + "cifar.tar.gz")
    monkeypatch.setattr(FashionMNIST, "mirrors", [nobody])
    with pytest.raises(DataError, match="CIFAR100.*cifar-100-python"):
        open_data(DataSpec(source="cifar100"))
    with pytest.raises(DataError, match="Fashion-MNIST.*FashionMNIST/raw"):
        fetch_fashion_mnist()
    for name, _ in FashionMNIST.resources:
        (tmp_path / "FashionMNIST" / "raw" / name.removesuffix(".gz")).write_bytes(b"unpacked")
        (tmp_path / "FashionMNIST" / "raw" / name).write_bytes(b"packed")
    assert fetch_fashion_mnist() == tmp_path / "FashionMNIST" / "raw"


def test_bad_folders_say_what_is_wrong(tree: Path, tmp_path: Path) -> None:
    def refused(path: Path | str, words: str) -> None:
        with pytest.raises(DataError, match=words) as caught:
            open_data(DataSpec(source=str(path)))
        assert "\n" not in str(caught.value)

    refused("fashion-mnits", "did you mean fashion-mnist")
    refused(tmp_path / "none", "none: no such folder or file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty: no images found")
    write_images(tmp_path / "flat", 3)
    refused(tmp_path / "flat", "flat: its 3 images .* are in no class folders")
    write_images(tmp_path / "one" / "cat", 3)
    refused(tmp_path / "one", r"one class only \(cat\)")
    (tree / "dog").mkdir()
    (tree / "dog" / "readme.md").write_text("soon")
    refused(tree, "dog: a class without images")
    (tmp_path / "no.tar").write_bytes(b"text" * 1000)
    refused(tmp_path / "no.tar", r"no\.tar: cannot be read as a tar")


def test_bad_parts_say_what_is_wrong(parted: Path) -> None:
    spec = DataSpec(source=str(parted))
    write_images(parted / "val" / "cow", 1)
    with pytest.raises(DataError, match="val/cow"):
        open_data(spec)
    shutil.rmtree(parted / "val" / "cow")
    write_images(parted / "more" / "ant", 1)
    with pytest.raises(DataError, match="more/.*train/"):
        open_data(spec)
    shutil.rmtree(parted / "more")
    (parted / "test" / "ant" / "200.png").unlink()
    (parted / "test" / "ant" / "201.png").unlink()
    with pytest.raises(DataError, match="test/ant"):
        open_data(spec)
    for path in list((parted / "test").rglob("*.png")):
        path.rename(parted / "test" / path.name)
    shutil.rmtree(parted / "test" / "ant")
    shutil.rmtree(parted / "test" / "bee")
    splits = open_data(spec)  # test images without labels are left out
    assert splits.test().description.startswith("set val")


@pytest.mark.parametrize(("suffix", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tar.xz", "w:xz")])
def test_a_tar_cut_in_half_is_named(tree: Path, tmp_path: Path, suffix: str, mode: str) -> None:
    archive = pack(tree, tmp_path / f"half.{suffix}", mode)
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"half\.{suffix}: (damaged or cut short|cannot be read)"):
        open_data(DataSpec(source=str(archive)))


def test_a_tar_with_a_damaged_header_is_not_taken_for_a_shorter_one(
    tree: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "set.tar"
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(tree, tree.name)
    content = bytearray(archive.read_bytes())
    content[content.index(b"root/cow/210.png")] ^= 1  # its checksum is wrong now
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"set\.tar"):
        open_data(DataSpec(source=str(archive)))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tars_that_were_joined_are_refused(tree: Path, tmp_path: Path, mode: str) -> None:
    """Only the images of the first would be read."""
    data = b""
    for folder in sorted(tree.iterdir()):
        with tarfile.open(tmp_path / "one.tar", mode) as tar:
            tar.add(folder, folder.name)
        data += (tmp_path / "one.tar").read_bytes()
    (tmp_path / "all.tar").write_bytes(data)
    with pytest.raises(DataError, match="second tar"):
        open_data(replace(WHOLE, source=str(tmp_path / "all.tar")))
    (tmp_path / "padded.tar").write_bytes((tmp_path / "one.tar").read_bytes() + bytes(20_000))
    assert len(list_tar(tmp_path / "padded.tar").paths) > 0


def test_a_truncated_image_is_named(tree: Path) -> None:
    path = tree / "cow" / "210.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"cow/210\.png"):
        open_data(replace(WHOLE, source=str(tree), max_unreadable=0))


@pytest.mark.slow
def test_cifar10_tar(shared_data: Path) -> None:
    splits = open_data(DataSpec(source=str(shared_data / "cifar10.tar.xz")))
    assert splits.train.images.shape == (45_029, 32, 32, 3)
    assert splits.classes[:3] == ("airplane", "automobile", "bird")
    counts = [488, 494, 498, 530, 507, 470, 501, 495, 477, 511]
    assert torch.bincount(splits.val.labels).tolist() == counts
    assert splits.train.images.double().mean() == pytest.approx(120.7, abs=0.5)
    assert splits.val.description == "cifar10.tar.xz train, validation share (seed 0), 4,971 images"

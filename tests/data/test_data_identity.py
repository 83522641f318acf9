"""Held-out shares follow each image's identity; runs of the old rule keep their own shares."""

import json
import shutil
import tarfile
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from digit_sets import digit_files
from paths import GOLDEN
from PIL import Image

import resnets
from resnets.config import DataSpec, from_toml
from resnets.data import Split, open_data
from resnets.data.dataset.image_hash import can_hash, file_keys, hash_blocks
from resnets.data.dataset.image_identity import hash_names, hold_out, strip_common_folder
from resnets.data.dataset.quarantine_list import Quarantine
from resnets.data.files.archives import list_zip
from resnets.data.files.folder import FolderFiles
from resnets.data.files.tar import list_tar
from resnets.data.loading.pack_write import pack
from resnets.data.sources.open import find_source
from resnets.evaluate.data.match_classes import open_split

OLD = GOLDEN / "rank_rule"
FILES = DataSpec(in_memory="never")


def write_tree(root: Path, count: int = 30, classes: int = 3) -> Path:
    """Class folders of digits, each file called by its place in the set."""
    for number, (data, digit) in enumerate(digit_files(count, classes)):
        folder = root / f"digit{digit}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:03d}.png").write_bytes(data)
    return root


def names(split: Split | None) -> set[str]:
    """The images of a split by class folder and name, whatever stores them."""
    assert split is not None
    found = {split.files.name(row) for row in range(len(split))}
    return {"/".join(name.replace(":", "/").split("/")[-2:]) for name in found}


def shares(source: Path, **changes: object) -> list[set[str]]:
    splits = open_data(replace(FILES, source=str(source), **changes))
    return [names(splits.train), names(splits.val), names(splits.test())]


def test_one_more_image_moves_no_other(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set")
    before = shares(tree)
    new = tree / "digit1" / "000-first.png"
    new.write_bytes(digit_files(40, 2)[-1][0])
    after = shares(tree)
    for one, two in zip(before, after, strict=True):
        assert one == two - {"digit1/000-first.png"}
    new.unlink()
    gone = sorted(before[0])[3]
    (tree / gone).unlink()
    assert shares(tree) == [before[0] - {gone}, *before[1:]]


def test_a_folder_its_tar_and_its_pack_give_the_same_shares(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set")
    flat, deep = tmp_path / "flat.tar", tmp_path / "deep.tar.gz"
    with tarfile.open(flat, "w") as tar:
        tar.add(tree, ".")
    with tarfile.open(deep, "w:gz") as tar:
        tar.add(tree, "pets")
    packed = tmp_path / "set.pack"
    pack(find_source(DataSpec(source=str(tree))), packed, 8, quarantine=Quarantine("", frozenset()))
    parted = tmp_path / "parted"
    shutil.copytree(tree, parted / "train")
    expected = shares(tree)
    assert all(expected)
    for source in (flat, deep, packed, shutil.copytree(tree, tmp_path / "renamed")):
        assert shares(source) == expected, source
    moved = shares(parted)
    assert moved == expected


def test_shares_do_not_change_with_each_other(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set")
    one, two = shares(tree, test_fraction=0.2), shares(tree, test_fraction=0.4)
    assert one[1] == two[1]
    assert one[2] < two[2]
    assert shares(tree, split_seed=1)[2] != one[2]


def test_composed_and_decomposed_names_are_the_same() -> None:
    words = ["caf\u00e9/1.jpg", "na\u00efve/\udcff.jpg"]
    split = [unicodedata.normalize("NFD", word) for word in words]
    assert split != words
    assert np.array_equal(hash_names(words), hash_names(split))


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a/1", "b/1"], ["a/1", "b/1"]),
        (["top/train/a/1", "top/train/b/x/1"], ["a/1", "b/x/1"]),
        (["train/a/1", "train/a/2"], ["a/1", "a/2"]),
        (["1.jpg", "2.jpg"], ["1.jpg", "2.jpg"]),
        ([], []),
    ],
)
def test_paths_begin_with_the_class_folder(paths: list[str], expected: list[str]) -> None:
    assert strip_common_folder(paths) == expected


@pytest.mark.parametrize("seed", range(20))
def test_copies_are_on_one_side_and_each_class_keeps_a_training_image(seed: int) -> None:
    chance = np.random.default_rng(seed)
    labels = np.sort(chance.integers(0, 6, 60))
    content = chance.integers(0, 25, 60).astype(np.uint64)  # 0 = not known; copies cross classes
    ids = hash_names(list(map(str, range(60))))
    parts = hold_out(labels, ids, val_fraction=0.2, test_fraction=0.3, seed=seed, content=content)
    assert sorted(np.concatenate(parts)) == list(range(60))
    keys = [set(content[rows].tolist()) - {0} for rows in parts]
    assert keys[0].isdisjoint(keys[1] | keys[2])
    assert keys[1].isdisjoint(keys[2])
    assert set(labels[parts[0]]) == set(labels)


def test_each_class_holds_out_at_least_one() -> None:
    labels = np.repeat([0, 1, 2, 3], [1, 2, 3, 50])
    ids = hash_names(list(map(str, range(56))))
    for seed in range(20):
        train, val, test = hold_out(labels, ids, val_fraction=0.001, test_fraction=0.001, seed=seed)
        assert np.bincount(labels[train], minlength=4).tolist() == [1, 1, 1, 48]
        assert np.bincount(labels[val], minlength=4).tolist() == [0, 0, 1, 1]
        assert np.bincount(labels[test], minlength=4).tolist() == [0, 1, 1, 1]


def test_keys_see_every_byte_whatever_holds_the_files(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000  # of more than one block
    middle = len(data) // 2
    texts = {"a": data, "copy": data, "head": b"x" + data[1:], "tail": data[:-1] + b"x"}
    texts["middle"] = data[:middle] + b"x" + data[middle + 1 :]
    texts |= {"longer": data + data[:256], "small": b"abc", "small copy": b"abc", "empty": b""}
    for name, text in texts.items():
        (tmp_path / f"{name}.png").write_bytes(text)
    paths = [f"{name}.png" for name in texts]
    found = file_keys(FolderFiles(tmp_path, paths))
    keys = dict(zip(texts, found, strict=True))
    assert keys["a"] == keys["copy"]
    assert keys["small"] == keys["small copy"] == hash_blocks([b"a", b"bc"])
    assert len(set(keys.values())) == 7
    assert file_keys(FolderFiles(tmp_path, ["missing"])).tolist() == [0]
    with (
        tarfile.open(tmp_path / "set.tar", "w") as tar,
        zipfile.ZipFile(tmp_path / "set.zip", "w") as archive,
    ):
        for path in paths:
            tar.add(tmp_path / path, path)
            archive.write(tmp_path / path, path)
    for listing in (list_tar(tmp_path / "set.tar"), list_zip(tmp_path / "set.zip")):
        rows = [listing.paths.index(path) for path in paths]
        assert (file_keys(listing.files)[rows] == found).all()


def test_keys_of_too_many_bytes_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = FolderFiles(tmp_path, ["a", "b", "missing"])
    for name in "ab":
        (tmp_path / name).write_bytes(bytes(1000))
    assert can_hash(files)
    monkeypatch.setattr("resnets.data.dataset.image_hash.MAX_BYTES", 1999)
    assert not can_hash(files)


def write_scans(root: Path, first: int, count: int, **gray: int) -> None:
    """Scans without compression in wide black margins: one size, and the same ends."""
    for name, value in gray.items():
        (root / name).mkdir(parents=True)
        for number in range(first, first + count):
            pixels = np.zeros((320, 320), np.uint8)
            pixels[150:170, 150:170] = value + number
            Image.fromarray(pixels).save(root / name / f"{number:03d}.bmp")


def test_scans_with_equal_margins_are_not_copies(tmp_path: Path) -> None:
    write_scans(tmp_path / "flat", 0, 12, benign=50, malignant=150)
    held = shares(tmp_path / "flat", val_fraction=0.2, test_fraction=0.2)
    assert all(len({path.split("/")[0] for path in share}) == 2 for share in held)
    write_scans(tmp_path / "parts" / "train", 0, 6, benign=50, malignant=150)
    write_scans(tmp_path / "parts" / "test", 6, 3, benign=50, malignant=150)
    splits = open_data(replace(FILES, source=str(tmp_path / "parts")), training=True)
    assert not splits.overlaps


def test_classes_of_which_nothing_is_held_out_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = write_tree(tmp_path / "set", 24, 2)
    (tree / "alike").mkdir()
    for number in range(5):
        shutil.copy(tree / "digit1" / "001.png", tree / "alike" / f"{number}.png")
    splits = open_data(replace(FILES, source=str(tree)), training=True)
    said = [note for note in splits.summary.notes if "alike" in note]
    assert len(said) == 2
    assert all("digit0" not in note for note in said)
    assert all(note in caplog.text for note in said)


def test_a_run_of_the_old_rule_keeps_its_shares(tmp_path: Path) -> None:
    known = json.loads((OLD / "split.json").read_text())
    tree = write_tree(tmp_path / "set", 10)
    shutil.copy(OLD / "best.safetensors", tmp_path)
    net = resnets.load(tmp_path / "best.safetensors")
    assert net.recipe.data.split_rule == "rank"
    net.recipe = replace(net.recipe, data=replace(net.recipe.data, source=str(tree)))
    for role in ("train", "val", "test"):
        split = open_split(net, None, role, stored=True)
        found = [split.files.name(row).rsplit("/")[-1] for row in range(len(split))]
        assert found == known[role], role
    assert from_toml(OLD / "recipe.toml", stored=True).data.split_rule == "rank"
    assert from_toml(OLD / "recipe.toml").data.split_rule == "identity"
    assert shares(tree)[2] != set(known["test"])

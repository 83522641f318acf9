"""Parquet, Arrow and the Hub through `datasets`, and WebDataset: columns, parts, bad input."""

import io
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digit_sets import digit_files

from resnets.bulk.image_index import index_dataset
from resnets.config import ConfigError, DataSpec
from resnets.data import DataError, open_data
from resnets.data.dataset.source import Source
from resnets.data.sources.huggingface import ArrowFiles
from resnets.data.sources.open import find_source

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")

NAMES = ("nought", "one", "two", "three")
WHOLE = DataSpec(val_fraction=0, test_fraction=0, in_memory="never")
Pictures = list[tuple[bytes, int]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return digit_files(12)


def typed(pictures: Pictures, names: tuple[str, ...] = NAMES) -> "datasets.Dataset":
    """As the Hub has them: an Image and a ClassLabel."""
    columns = {
        "image": [{"bytes": data, "path": None} for data, _ in pictures],
        "label": [digit for _, digit in pictures],
    }
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))}
    return datasets.Dataset.from_dict(columns, datasets.Features(features))


def stored(root: Path, *, streaming: bool = False) -> Source:
    return find_source(DataSpec(source=str(root), streaming=streaming))


def labels_of(source: Source) -> list[list[str]]:
    """The names of the labels of training, validation and test, for those that there are."""
    parts = [source.train, source.val, source.test() if source.test else None]
    return [[source.classes[label] for label in part.labels] for part in parts if part is not None]


def plain(path: Path, columns: dict[str, list], group: int = 1000) -> Path:
    """A Parquet file that says nothing of images or classes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pa.parquet.write_table(pa.table(columns), path, row_group_size=group)
    return path


@pytest.fixture
def parquet(tmp_path: Path, pictures: Pictures) -> Path:
    """A folder of train-0, train-1 and test, 32 and 16 images."""
    root = tmp_path / "digits"
    root.mkdir()
    for name, rows in (("train-0", (0, 20)), ("train-1", (20, 32)), ("test-0", (32, 48))):
        part = typed(pictures[slice(*rows)])
        part.to_parquet(str(root / f"{name}.parquet"), batch_size=8)
    return root


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_parquet(parquet: Path, pictures: Pictures, streaming: bool) -> None:
    splits = open_data(replace(WHOLE, source=str(parquet), streaming=streaming))
    assert splits.classes == NAMES
    assert splits.train.description == "digits train, 32 images"
    test = splits.test()
    assert splits.val is None
    for split, rows in ((splits.train, pictures[:32]), (test, pictures[32:])):
        assert split.labels.tolist() == [digit for _, digit in rows]
        assert [split.files.read(row) for row in range(len(split))] == [data for data, _ in rows]
    assert splits.train.files.name(25) == "digits/train:25"
    assert test.files.take(torch.tensor([3]).numpy()).name(0) == "digits/test:3"


def test_it_fits_into_memory_as_folders_do(parquet: Path) -> None:
    memory = open_data(DataSpec(source=str(parquet)))
    assert memory.train.images.shape == (32 - len(memory.val), 16, 16, 1)
    assert len(memory.val) >= 4  # by content: one of each class at least


def test_what_save_to_disk_wrote_and_its_files(
    tmp_path: Path, pictures: Pictures, parquet: Path
) -> None:
    both = datasets.DatasetDict({"train": typed(pictures[:32]), "validation": typed(pictures[32:])})
    both.save_to_disk(str(tmp_path / "both"))
    typed(pictures).save_to_disk(str(tmp_path / "one"))
    splits = open_data(replace(WHOLE, source=str(tmp_path / "both")))
    assert splits.test().description == "both validation, 16 images"  # as where val/ is alone
    (arrow,) = (tmp_path / "one").glob("*.arrow")
    for source in (tmp_path / "one", arrow):
        alone = open_data(replace(WHOLE, source=str(source))).train
        assert [alone.files.read(row) for row in range(48)] == [data for data, _ in pictures]
    with pa.memory_map(str(arrow)) as stream:  # the file form, which `datasets` does not read
        table = pa.ipc.open_stream(stream).read_all()
    with pa.ipc.new_file(str(tmp_path / "file.arrow"), table.schema) as writer:
        writer.write_table(table)
    alone = open_data(replace(WHOLE, source=str(tmp_path / "file.arrow"))).train
    assert [alone.files.read(row) for row in range(48)] == [data for data, _ in pictures]
    assert alone.classes == NAMES
    file = parquet / "train-1.parquet"
    alone = open_data(replace(WHOLE, source=str(file))).train
    assert alone.description == "train-1.parquet, 12 images"
    assert isinstance(alone.files, ArrowFiles)
    with pytest.raises(DataError, match=r"\.arrow.*WebDataset"):
        open_data(replace(WHOLE, source=str(tmp_path / "one"), streaming=True))


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_are_found(tmp_path: Path, pictures: Pictures, streaming: bool) -> None:
    data, digits = [data for data, _ in pictures], [digit for _, digit in pictures]
    names = [NAMES[digit] for digit in digits]
    structs = [{"bytes": each, "path": "x.png"} for each in data]
    for number, (columns, classes) in enumerate(
        (
            ({"id": names, "img": data, "fine_label": digits, "coarse": digits}, tuple("0123")),
            ({"jpg": structs, "cls": names, "caption": names}, tuple(sorted(NAMES))),
            ({"label": names, "class": digits, "png": data}, tuple(sorted(NAMES))),
        )
    ):
        file = plain(tmp_path / f"{number}.parquet", columns)
        splits = open_data(replace(WHOLE, source=str(file), streaming=streaming))
        said = "; ".join(splits.summary.notes)
        assert all(f"'{column}'" in said for column in columns)
        train = splits.train
        assert train.classes == classes
        assert [train.files.read(row) for row in range(48)] == data
        wanted = [str(digit) for digit in digits] if classes == tuple("0123") else names
        assert [train.classes[label] for label in train.labels] == wanted


@pytest.mark.parametrize("streaming", [False, True])
def test_bad_tables_are_named(tmp_path: Path, pictures: Pictures, streaming: bool) -> None:
    data, digits = [data for data, _ in pictures], [digit for _, digit in pictures]
    several = "one label here; for multi-label data set data.labels=multi"
    for number, (columns, words) in enumerate(
        (
            ({"scan": data, "label": digits}, r"no image column among scan \(binary\), label"),
            ({"image": digits, "label": digits}, r"no image column among image \(int64\)"),
            ({"image": data, "kind": digits}, r"no label column among .*kind \(int64\); rename"),
            ({"image": data, "label": [{"a": digit} for digit in digits]}, "column label is"),
            ({"image": data, "label": ["a;b", *map(str, digits[1:])]}, f"'a;b' .*{several}"),
            ({"image": data, "label": [0.5] * 48}, "column label is (float64|double); labels are"),
            ({"image": data, "label": [None, *digits[1:]]}, "1 of 48 images have no label, the"),
            ({"image": data, "label": [-1] * 48}, "has no labels: all are -1 or missing"),
            ({"image": data, "label": [1] * 48}, r"one class only \(1\)"),
        )
    ):
        file = plain(tmp_path / f"{number}.parquet", columns)
        with pytest.raises(DataError, match=words) as caught:
            open_data(replace(WHOLE, source=str(file), streaming=streaming))
        assert f"{number}.parquet" in str(caught.value)
        assert "\n" not in str(caught.value)
    whole = plain(tmp_path / "whole.parquet", {"image": data, "label": digits}).read_bytes()
    half = tmp_path / "half.parquet"
    half.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"half\.parquet") as caught:
        open_data(replace(WHOLE, source=str(half), streaming=streaming))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
def test_empty_and_damaged_cells_are_unreadable_images(
    tmp_path: Path, pictures: Pictures, streaming: bool
) -> None:
    data, digits = [data for data, _ in pictures], [digit for _, digit in pictures]
    columns = {"image": [None, b"", b"no image", *data[3:]], "label": digits}
    file = plain(tmp_path / "holes.parquet", columns)
    train = open_data(
        replace(WHOLE, source=str(file), streaming=streaming, max_unreadable=0.1)
    ).train
    for row in (0, 1):
        with pytest.raises(DataError, match=rf"holes\.parquet:{row}: contains no image"):
            train.files.read(row)
    assert train.files.read(2) == b"no image"


@pytest.mark.parametrize("streaming", [False, True])
def test_other_parts_and_secret_labels_are_left_alone(
    tmp_path: Path, pictures: Pictures, streaming: bool
) -> None:
    root = tmp_path / "parts"
    for name, hidden in (("train", False), ("validation", False), ("test", True)):
        data = [data for data, _ in pictures]
        labels = [-1 if hidden else digit for _, digit in pictures]
        plain(root / f"{name}-0.parquet", {"image": data, "label": labels})
    splits = open_data(replace(WHOLE, source=str(root), streaming=streaming))
    assert splits.test().description == "parts val, 48 images"
    assert stored(root, streaming=streaming).skipped.total == 48


@pytest.mark.parametrize("images_in", [False, True])
def test_tables_next_to_class_folders_are_excluded(
    tmp_path: Path, pictures: Pictures, images_in: bool
) -> None:
    for number, (data, digit) in enumerate(pictures):
        file = tmp_path / "set" / NAMES[digit] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    columns = {"label": [0, 1], "width": [3, 3]}
    if images_in:
        columns["image"] = [data for data, _ in pictures[:2]]
    plain(tmp_path / "set" / "metadata.parquet", columns)
    plain(tmp_path / "set" / "one" / "more.parquet", columns)
    found = stored(tmp_path / "set")
    assert len(found.train.labels) == 48
    assert found.skipped.counts == {("not an image", ".parquet"): 2}
    (tmp_path / "work").mkdir()
    bulk = index_dataset(str(tmp_path / "set"), tmp_path / "work")
    assert (bulk.kind, bulk.count, bulk.skipped) == ("files", 48, ("2 .parquet (not an image)",))
    with pytest.raises(ConfigError, match="streaming"):
        stored(tmp_path / "set", streaming=True)


def test_a_flat_folder_with_its_labels_and_features(tmp_path: Path, pictures: Pictures) -> None:
    """What `features --out` writes into it holds no images."""
    rows = ["path,label"]
    for number, (data, digit) in enumerate(pictures):
        (tmp_path / f"{number}.png").write_bytes(data)
        rows.append(f"{number}.png,{NAMES[digit]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    plain(tmp_path / "rows.parquet", {"path": ["0.png"], "label": [0], "embedding": [[0.5]]})
    found = stored(tmp_path)
    assert len(found.train.labels) == 48
    assert found.skipped.total >= 1


def test_saved_sets_and_class_folders_in_one_folder_are_refused(
    tmp_path: Path, pictures: Pictures
) -> None:
    typed(pictures).save_to_disk(str(tmp_path / "set"))
    plain(tmp_path / "set" / "more.parquet", {"label": [0]})
    assert stored(tmp_path / "set").skipped.total == 1
    for digit in (0, 1):
        (tmp_path / "set" / NAMES[digit]).mkdir()
        (tmp_path / "set" / NAMES[digit] / "0.png").write_bytes(pictures[digit][0])
    with pytest.raises(DataError, match="set: contains image folders"):
        stored(tmp_path / "set")


@pytest.mark.parametrize("streaming", [False, True])
def test_every_table_is_used_or_refused(
    tmp_path: Path, pictures: Pictures, streaming: bool
) -> None:
    def write(root: Path, name: str, rows: slice) -> None:
        data, digits = zip(*pictures[rows], strict=True)
        plain(root / name, {"image": list(data), "label": list(digits)})

    root = tmp_path / "lake"
    names = ("pets-train-2025.parquet", "pets-2026-06.parquet", "more/pets-test.parquet")
    for number, name in enumerate(names):
        write(root, name, slice(number * 16, number * 16 + 16))
    with pytest.raises(DataError, match=r"pets-2026-06\.parquet"):
        stored(root, streaming=streaming)
    card = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: pets*\n"
    )
    (root / "README.md").write_text(card + "---\n# Pets\n")
    with pytest.raises(DataError, match=r"pets-test\.parquet"):  # not listed
        stored(root, streaming=streaming)
    (root / "README.md").write_text(card + "  - {split: test, path: 'more/*'}\n---\n# Pets\n")
    assert [len(part) for part in labels_of(stored(root, streaming=streaming))] == [32, 16]
    (root / "README.md").unlink()
    for folder in ("train", "test"):  # a folder says it too, and their files have the same name
        write(tmp_path / "by", f"{folder}/0.parquet", slice(0, 24))
    found = stored(tmp_path / "by", streaming=streaming)
    assert [len(part) for part in labels_of(found)] == [24, 24]
    write(tmp_path / "by", "test/train-1.parquet", slice(0, 24))
    with pytest.raises(DataError, match=r"test/train-1\.parquet"):
        stored(tmp_path / "by", streaming=streaming)
    unnamed = tmp_path / "unnamed"
    for number in range(3):
        write(unnamed, f"part[{number}].parquet", slice(number * 16, number * 16 + 16))
    (unnamed / "banner.png").write_bytes(pictures[0][0])
    found = stored(unnamed, streaming=streaming)
    assert len(found.train.labels) == 48
    assert found.skipped.total == 1
    write(tmp_path / "hive", "label=cat/0.parquet", slice(0, 24))
    with pytest.raises(DataError, match="label=cat"):
        stored(tmp_path / "hive", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_of_splits_is_used(tmp_path: Path, pictures: Pictures, streaming: bool) -> None:
    data, digits = [data for data, _ in pictures], [digit for _, digit in pictures]
    split = [
        "Validation" if row % 6 == 1 else "test" if row % 3 == 0 else "train" for row in range(48)
    ]
    columns = {"image": data, "label": digits, "split": split}
    file = plain(tmp_path / "lake" / "part-0.parquet", columns, group=10)
    for source in (file, file.parent):
        found = stored(source, streaming=streaming)
        assert found.val is not None
        for part, rows in (
            (found.train, [row for row in range(48) if split[row] == "train"]),
            (found.val, [row for row in range(48) if split[row] == "Validation"]),
            (found.test(), [row for row in range(48) if split[row] == "test"]),
        ):
            assert part.labels.tolist() == [digits[row] for row in rows]
            assert [part.files.read(at) for at in range(len(rows))] == [data[row] for row in rows]
            assert part.files.name(1).endswith(f":{rows[1]}")
    flags = {"image": data, "label": digits, "is_valid": [row % 4 == 0 for row in range(48)]}
    plain(tmp_path / "flags.parquet", flags)
    found = stored(tmp_path / "flags.parquet", streaming=streaming)
    assert [len(part) for part in labels_of(found)] == [36, 12]
    three = {**flags, "is_test": [row % 4 == 1 for row in range(48)], "fold": [1, 2] * 24}
    plain(tmp_path / "three.parquet", three)
    found = stored(tmp_path / "three.parquet", streaming=streaming)
    assert [len(part) for part in labels_of(found)] == [24, 12, 12]
    assert any("fold" in note for note in found.notes)
    plain(tmp_path / "bad.parquet", {**columns, "split": ["train"] * 47 + ["other"]})
    with pytest.raises(DataError, match="'other'"):
        stored(tmp_path / "bad.parquet", streaming=streaming)
    both = tmp_path / "both"
    plain(both / "train.parquet", columns)
    plain(both / "test.parquet", {**columns, "split": ["test"] * 48})
    with pytest.raises(DataError, match="both/train"):
        stored(both, streaming=streaming)
    plain(both / "train.parquet", {**columns, "split": ["train"] * 48})
    assert [len(part) for part in labels_of(stored(both, streaming=streaming))] == [48, 48]


def test_classes_of_parts_are_matched_by_name(tmp_path: Path, pictures: Pictures) -> None:
    """Written with another order of the same names in each part."""
    names = [NAMES[digit] for _, digit in pictures]
    turned = [(data, 3 - digit) for data, digit in pictures]
    train, test = typed(pictures), typed(turned, NAMES[::-1])
    parts = {"train": train, "dev": test, "unsupervised": test.select(range(3))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    found = stored(tmp_path / "saved")
    assert found.classes == NAMES
    assert labels_of(found) == [names, names]
    assert found.skipped.total == 3
    (tmp_path / "lake").mkdir()
    train.to_parquet(str(tmp_path / "lake" / "train-0.parquet"))
    test.to_parquet(str(tmp_path / "lake" / "test-0.parquet"))
    for streaming in (False, True):
        assert labels_of(stored(tmp_path / "lake", streaming=streaming)) == [names, names]
    typed(pictures, (*NAMES[:3], "five")).to_parquet(str(tmp_path / "lake" / "test-0.parquet"))
    for streaming in (False, True):
        with pytest.raises(DataError, match="lake/test.*'five'"):
            stored(tmp_path / "lake", streaming=streaming)
    test.to_parquet(str(tmp_path / "lake" / "train-1.parquet"))  # one split, two orders
    for streaming in (False, True):
        with pytest.raises(DataError, match=r"train-1\.parquet"):
            stored(tmp_path / "lake", streaming=streaming)


def test_the_hub_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")  # no one listens
    for streaming in (False, True):
        spec = DataSpec(source="hub:pets/cats@v1:small", streaming=streaming)
        with pytest.raises(DataError, match="127.0.0.1:9/datasets/pets/cats") as caught:
            open_data(spec)
        assert "\n" not in str(caught.value)
    for name in ("hub:", "hub:cats", "hub:pets/cats:", "hub:a/b/c"):
        with pytest.raises(ConfigError, match="hub:ORG/NAME"):
            open_data(DataSpec(source=name))
    assert not datasets.config.HF_HUB_OFFLINE


def test_the_hub_from_its_cache(
    parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As left by an earlier load with a network: the same files under the repository's name."""
    datasets.load_dataset(str(parquet))
    (info,) = (tmp_path / "cache").rglob("dataset_info.json")
    cached = tmp_path / "cache" / "pets___cats" / "default" / "0.0.0" / "0123abcd"
    cached.mkdir(parents=True)
    for file in info.parent.iterdir():
        text = file.read_bytes().replace(b'"dataset_name": "digits"', b'"dataset_name": "cats"')
        (cached / file.name.replace("digits-", "cats-")).write_bytes(text)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    here = open_data(replace(WHOLE, source=str(parquet)))
    for source in ("hub:pets/cats", "hub:pets/cats:default"):
        found = open_data(replace(WHOLE, source=source))
        assert found.name == source.removeprefix("hub:")
        assert found.classes == NAMES
        assert torch.equal(found.test().labels, here.test().labels)
        assert found.train.files.read(7) == here.train.files.read(7)
    with pytest.raises(DataError, match="which revision is in the cache is not known"):
        open_data(replace(WHOLE, source="hub:pets/cats@v1"))


def test_without_the_extra_it_says_what_to_install(
    parquet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in (str(parquet), "hub:pets/cats"):
        with pytest.raises(DataError, match=r"pip install 'resnets\[hub\]'"):
            open_data(DataSpec(source=source))


def write_shards(root: Path, pictures: Pictures, per_shard: int, name: str = "train") -> None:
    wds = pytest.importorskip("webdataset")
    root.mkdir(exist_ok=True)
    pattern = str(root / f"{name}-%03d.tar")
    with wds.ShardWriter(pattern, maxcount=per_shard, verbose=0) as writer:
        for number, (data, digit) in enumerate(pictures):
            writer.write({"__key__": f"{number:04}", "png": data, "cls": str(digit).encode()})


@pytest.mark.parametrize("streaming", [False, True])
def test_webdataset_shards(tmp_path: Path, pictures: Pictures, streaming: bool) -> None:
    root = tmp_path / "shards"
    write_shards(root, pictures[:32], 10)
    write_shards(root, pictures[32:], 100, "val")
    splits = open_data(replace(WHOLE, source=str(root), streaming=streaming))
    assert splits.classes == tuple("0123")
    assert splits.test().description == "shards val, 16 images"
    train = splits.train
    assert train.labels.tolist() == [digit for _, digit in pictures[:32]]
    assert [train.files.read(row) for row in range(32)] == [data for data, _ in pictures[:32]]
    assert train.files.name(12) == f"{root}/train-001.tar:0012.png"
    (root / "classes.txt").write_text("\n".join(NAMES))
    named = open_data(replace(WHOLE, source=str(root), streaming=streaming))
    assert named.classes == NAMES
    assert torch.equal(named.train.labels, train.labels)
    (root / "classes.txt").write_text("nought\none\n")
    with pytest.raises(DataError, match=r"classes\.txt.*2.*2"):
        open_data(replace(WHOLE, source=str(root)))
    (root / "classes.txt").unlink()
    single = open_data(replace(WHOLE, source=str(root / "val-000.tar"), streaming=streaming))
    assert len(single.train) == 16
    wds = pytest.importorskip("webdataset")
    theirs = wds.WebDataset(str(root / "train-000.tar"), shardshuffle=False)
    assert [each["png"] for each in theirs] == [data for data, _ in pictures[:10]]


def test_two_validation_parts_of_shards_are_refused(tmp_path: Path, pictures: Pictures) -> None:
    for name in ("train", "val", "validation"):
        write_shards(tmp_path / "shards", pictures[:8], 10, name)
    with pytest.raises(DataError, match="val and validation"):
        stored(tmp_path / "shards")


def tar_of(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def test_bad_shards_are_named(tmp_path: Path, pictures: Pictures) -> None:
    (one, _), (two, _) = pictures[:2]
    good = {"a.png": one, "a.cls": b"cat", "b.png": two, "b.json": json.dumps({"label": "dog"})}
    good["b.json"] = good["b.json"].encode()
    shard = tar_of(tmp_path / "good" / "x-train.tar", good)
    assert open_data(replace(WHOLE, source=str(shard.parent))).classes == ("cat", "dog")
    for number, (members, words) in enumerate(
        (
            ({"a.json": b'{"label": "dog"}'}, r"a\.json: label is 'dog'"),
            ({"b.json": b'{"label": "dog", "cls": "cat"}'}, r"b\.json: cls is 'cat'"),
            (
                {"a.json": b'{"cls": 1}', "b.cls": b"1"},
                "its fields say",
            ),
            ({"b.json": b"{}"}, r"train\.tar:b\.json: contains no label"),
            ({"b.json": b"{"}, r"train\.tar:b\.json: not UTF-8 text, or not JSON"),
            (
                {"b.json": b'{"label": [1, 2]}'},
                "b.json: several labels .*WebDataset",
            ),
            ({"a.cls": b"1 2"}, "a.cls: several labels"),
            ({"a.cls": b""}, "a.cls: contains no label"),
            ({"a.jpg": one}, r"a\.(png|jpg): more than one image of its name"),
            ({"c.png": one}, r"c\.png: has no label; expected \.cls or \.json next to it"),
        )
    ):
        shard = tar_of(tmp_path / str(number) / "train.tar", {**good, **members})
        with pytest.raises(DataError, match=words):
            open_data(replace(WHOLE, source=str(shard.parent)))
    agreeing = {"a.json": b'{"label": "cat", "cls": 0}', "b.cls": b"dog"}
    agreeing["b.json"] = b'{"caption": "a dog"}'
    shard = tar_of(tmp_path / "both" / "train.tar", {**good, **agreeing})
    assert open_data(replace(WHOLE, source=str(shard.parent))).classes == ("cat", "dog")
    packed = tar_of(tmp_path / "packed" / "train.tar", good, "w:gz")
    with pytest.raises(DataError, match=r"train\.tar"):
        open_data(replace(WHOLE, source=str(packed.parent)))
    tar_of(tmp_path / "good" / "other.tar", good)
    with pytest.raises(DataError, match=r"other\.tar"):
        open_data(replace(WHOLE, source=str(tmp_path / "good")))

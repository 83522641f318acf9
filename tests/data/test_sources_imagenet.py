"""ImageNet as it comes: flat validation with its ground truth, tars of tars, WordNet ids."""

import io
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from digit_sets import WNIDS, digit_files
from PIL import Image
from scipy.io import savemat

import resnets
from resnets.cli.main import main
from resnets.config import DataSpec, Preprocess
from resnets.data import DataError, Preprocessor, open_data
from resnets.data.tables.ground_truth_file import WNIDS as IMAGENET
from resnets.evaluate.data.match_classes import match_classes
from resnets.models import build, catalog
from resnets.weights.folder import write_folder
from resnets.weights.heads import imagenet_classes

TRUTH = "ILSVRC2012_validation_ground_truth.txt"
DEVKIT = "ILSVRC2012_devkit_t12"
# The devkit counts classes from 1 in an order of its own, not that of the WordNet ids.
IDS = {"n03000684": 1, "n01440764": 2, "n02979186": 3, "n02102040": 4}


def image(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}"


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """root/train/<wnid>/ with 6 images each, root/val/ with 12, without their labels."""
    root = tmp_path / "set"
    (root / "val").mkdir(parents=True)
    for number, (data, digit) in enumerate(digit_files(9, kind="JPEG")):
        folder = root / "train" / WNIDS[digit]
        folder.mkdir(parents=True, exist_ok=True)
        if len(list(folder.iterdir())) < 6:
            (folder / f"{WNIDS[digit]}_{number}.JPEG").write_bytes(data)
        else:
            count = len(list((root / "val").iterdir())) + 1
            (root / "val" / f"{image(count)}.JPEG").write_bytes(data)
    return root


def answers() -> list[str]:
    """The WordNet id of validation image 1, 2, ...: those that come seventh or later."""
    seen = dict.fromkeys(WNIDS, 0)
    found = []
    for _, digit in digit_files(9, kind="JPEG"):
        seen[WNIDS[digit]] += 1
        if seen[WNIDS[digit]] > 6:
            found.append(WNIDS[digit])
    return found


def write_meta(path: Path) -> None:
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, wnid, "a thing", 0) for wnid, number in IDS.items()]
    rows.append((1001, "n00001740", "entity", 4))
    savemat(path, {"synsets": np.array(rows, kinds)})


def write_devkit(folder: Path) -> None:
    (folder / DEVKIT / "data").mkdir(parents=True)
    write_meta(folder / DEVKIT / "data" / "meta.mat")
    lines = "".join(f"{IDS[wnid]}\n" for wnid in answers())
    (folder / DEVKIT / "data" / TRUTH).write_text(lines)


def kaggle(root: Path) -> None:
    rows = [
        f"{image(k)},{wnid} 1 2 30 40 {wnid} 5 6 7 8 \n"
        for k, wnid in enumerate(answers(), start=1)
    ]
    text = "ImageId,PredictionString\n" + "".join(reversed(rows))
    (root / "LOC_val_solution.csv").write_text(text)


def caffe(root: Path) -> None:
    places = [sorted(WNIDS).index(wnid) for wnid in answers()]
    rows = [f"{image(k)}.JPEG {place}\n" for k, place in enumerate(places, start=1)]
    (root / "val.txt").write_text("".join(rows))


def table(root: Path) -> None:
    rows = [f"val/{image(k)}.JPEG,{wnid}\n" for k, wnid in enumerate(answers(), start=1)]
    (root / "val" / "val.csv").write_text("path,label\n" + "".join(rows))


def devkit_beside(root: Path) -> None:
    write_devkit(root)


def devkit_files(root: Path) -> None:
    write_devkit(root.parent)
    for file in (root.parent / DEVKIT / "data").iterdir():
        shutil.move(file, root / file.name)
    shutil.rmtree(root.parent / DEVKIT)


def devkit_tar(root: Path) -> None:
    write_devkit(root.parent / "unpacked")
    with tarfile.open(root / f"{DEVKIT}.tar.gz", "w:gz") as tar:
        tar.add(root.parent / "unpacked" / DEVKIT, DEVKIT)


@pytest.mark.parametrize("write", [kaggle, caffe, table, devkit_beside, devkit_files, devkit_tar])
def test_flat_validation_gets_its_labels(imagenet: Path, write: Callable[[Path], None]) -> None:
    write(imagenet)
    splits = open_data(DataSpec(source=str(imagenet)))
    test = splits.test()
    assert splits.classes == tuple(sorted(WNIDS))
    assert [test.classes[label] for label in test.labels] == answers()
    assert test.description == "set val, 12 images"
    assert (len(splits.train), len(splits.val)) == (20, 4)


@pytest.mark.parametrize("write", [kaggle, caffe, devkit_beside])
def test_labels_of_images_that_are_missing_are_counted(
    imagenet: Path, write: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    write(imagenet)
    open_data(DataSpec(source=str(imagenet)))
    assert "no image" not in caplog.text
    for number in (3, 4):
        (imagenet / "val" / f"{image(number)}.JPEG").unlink()
    open_data(DataSpec(source=str(imagenet)))
    assert "2 of its 12 labels have no image" in caplog.text
    assert image(3) in caplog.text


def test_an_image_that_is_labeled_twice_is_refused(imagenet: Path) -> None:
    kaggle(imagenet)
    with (imagenet / "LOC_val_solution.csv").open("a") as file:
        other = next(wnid for wnid in WNIDS if wnid != answers()[0])
        file.write(f"{image(1)},{other} 1 2 30 40 \n")
    with pytest.raises(DataError, match=image(1)):
        open_data(DataSpec(source=str(imagenet)))


def test_truth_may_lie_elsewhere_and_cover_more(imagenet: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    write_devkit(elsewhere)
    for number in (1, 2, 5, 12):
        (imagenet / "val" / f"{image(number)}.JPEG").unlink()
    spec = DataSpec(source=str(imagenet), ground_truth=str(elsewhere / DEVKIT / "data" / TRUTH))
    test = open_data(spec).test()
    kept = [wnid for k, wnid in enumerate(answers(), start=1) if k not in (1, 2, 5, 12)]
    assert [test.classes[label] for label in test.labels] == kept


def test_kaggles_folders(imagenet: Path, tmp_path: Path) -> None:
    root = tmp_path / "kaggle"
    inside = root / "ILSVRC" / "Data" / "CLS-LOC"
    inside.parent.mkdir(parents=True)
    (root / "ILSVRC" / "ImageSets").mkdir()
    shutil.move(imagenet, inside)
    (inside / "test").mkdir()
    shutil.copy(inside / "val" / f"{image(1)}.JPEG", inside / "test" / "ILSVRC2012_test_1.JPEG")
    kaggle(root)
    for source in (root, root / "ILSVRC", inside):
        test = open_data(DataSpec(source=str(source))).test()
        assert [test.classes[label] for label in test.labels] == answers()


def test_flat_images_alone(imagenet: Path) -> None:
    whole = DataSpec(source=str(imagenet / "val"), val_fraction=0, test_fraction=0)
    with pytest.raises(DataError, match="val: its .* images .*are in no class folders"):
        open_data(whole)
    places = [IMAGENET.index(wnid) for wnid in answers()]
    rows = [f"{image(k)}.JPEG {place}\n" for k, place in enumerate(places, start=1)]
    (imagenet / "val" / "val.txt").write_text("".join(rows))
    alone = open_data(whole)
    assert [alone.classes[label] for label in alone.train.labels] == answers()
    named = [wnid.replace("n0", "class-") for wnid in answers()]
    (imagenet / "own.txt").write_text("\n".join(named))
    alone = open_data(replace(whole, ground_truth=str(imagenet / "own.txt")))
    assert [alone.classes[label] for label in alone.train.labels] == named


def test_labels_by_line_need_one_order_of_names(tmp_path: Path) -> None:
    root, file = tmp_path / "flat", tmp_path / "own.txt"
    root.mkdir()
    labels = ["cat"] * 6 + ["dog"] * 6
    file.write_text("\n".join(labels))
    for number in range(1, 13):
        pixels = np.full((8, 8, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
    spec = DataSpec(source=str(root), ground_truth=str(file), val_fraction=0, test_fraction=0)
    with pytest.raises(DataError, match="path,label"):
        open_data(spec)
    for path in root.iterdir():
        path.rename(root / f"{path.stem:0>2}.png")
    found = open_data(spec)
    assert [found.classes[label] for label in found.train.labels] == labels
    assert any("by position: 01.png = cat" in note for note in found.summary.notes)


def write_tars(imagenet: Path, folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid in WNIDS:
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w") as inner:
                for path in sorted((imagenet / "train" / wnid).iterdir()):
                    inner.add(path, path.name)
            entry = tarfile.TarInfo(f"{wnid}.tar")
            entry.size = stream.tell()
            stream.seek(0)
            outer.addfile(entry, stream)
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
        for path in (imagenet / "val").glob("*.JPEG"):
            tar.add(path, path.name)


def test_tars_as_they_are_downloaded(imagenet: Path, tmp_path: Path) -> None:
    kaggle(imagenet)
    write_tars(imagenet, tmp_path / "tars")
    with pytest.raises(DataError, match=r"img_val\.tar"):
        open_data(DataSpec(source=str(tmp_path / "tars")))
    write_devkit(tmp_path / "tars")
    folders, tars = (
        open_data(DataSpec(source=str(path))) for path in (imagenet, tmp_path / "tars")
    )
    for one, two in ((folders.train, tars.train), (folders.test(), tars.test())):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.labels, two.labels)
    nested = tmp_path / "tars" / "ILSVRC2012_img_train.tar"
    whole = DataSpec(source=str(nested), val_fraction=0, test_fraction=0)
    alone = open_data(replace(whole, in_memory="never")).train
    assert len(alone) == 24
    first = imagenet / "train" / WNIDS[0]
    assert alone.files.name(0) == f"{nested}:{WNIDS[0]}/{min(first.iterdir()).name}"
    content = bytearray(nested.read_bytes())
    content[512 + 148] ^= 1  # the checksum of the first header in the first inner tar
    nested.write_bytes(content)
    with pytest.raises(DataError, match=r"img_train\.tar:n01440764\.tar"):
        open_data(whole)


def test_bad_ground_truth_is_named(imagenet: Path) -> None:
    def refused(words: str, truth: str | None = None) -> None:
        with pytest.raises(DataError, match=words) as caught:
            open_data(DataSpec(source=str(imagenet), ground_truth=truth))
        assert "\n" not in str(caught.value)

    def given(text: str, suffix: str = "txt") -> str:
        file = imagenet / f"given.{suffix}"
        file.write_text(text)
        return str(file)

    refused("set/val/: its .* images .* are in no class folders; .*--set data.ground_truth=FILE")
    refused("data.ground_truth: nowhere.txt: no such file", "nowhere.txt")
    refused(r"given\.txt: its numbers count from 1.*meta\.mat", given("1\n" * 12))
    refused(r"given\.txt: labels 3 images, but there are 12", given("n01440764\n" * 3))
    line = f"{image(1)}.JPEG 2\n"
    refused(r"given\.txt: has no label for 11 of 12 images, among them ILSVRC.*2\.", given(line))
    rows = "".join(f"{image(k)}.JPEG 4\n" for k in range(1, 13))
    refused(r"given\.txt: the label of .*1\.JPEG: '4' is not one of the 4 classes", given(rows))
    refused(r"given\.csv: line 2: 3 cells, but line 1 has 2", given("path,label\na,b,c", "csv"))
    (imagenet / "given.txt").write_bytes(b"\xff\xfe\x00")
    refused(r"given\.txt: is not UTF-8", str(imagenet / "given.txt"))
    devkit_beside(imagenet)
    data = imagenet / DEVKIT / "data"
    (data / TRUTH).write_text("7\n" * 12)
    refused(r"ground_truth\.txt: line 1: '7' is not a class that meta\.mat knows")
    (data / "meta.mat").write_bytes(b"no matrix")
    refused(r"ground_truth\.txt: its meta\.mat cannot be read")
    shutil.rmtree(imagenet / DEVKIT)
    (imagenet / f"{DEVKIT}.tar.gz").write_bytes(b"no tar")
    refused(r"t12\.tar\.gz: not the devkit, or damaged")


def test_wordnet_ids_are_in_the_order_of_the_libraries() -> None:
    assert len(IMAGENET) == 1000
    assert list(IMAGENET) == sorted(set(IMAGENET))
    timm = pytest.importorskip("timm.data")
    assert list(IMAGENET) == timm.ImageNetInfo("imagenet-1k").label_names()
    names = dict(zip(IMAGENET, imagenet_classes(), strict=True))
    known = {"n01440764": "tench", "n02979186": "cassette player", "n03888257": "parachute"}
    assert {wnid: names[wnid] for wnid in known} == known
    assert (names["n02012849"], names["n03126707"]) == ("crane bird", "crane")


def test_wordnet_ids_are_matched_to_any_network_of_imagenet() -> None:
    few = ("n02979186", "n01440764", "n03888257")
    names = imagenet_classes()
    outputs = match_classes(few, names, "here")
    assert [names[output] for output in outputs] == ["cassette player", "tench", "parachute"]
    numbers = tuple(map(str, range(1000)))
    assert torch.equal(match_classes(few, numbers, "here"), outputs)
    own = tuple(reversed(IMAGENET))  # a net trained on folders of all 1,000, in any order
    assert [own[output] for output in match_classes(few, own, "here")] == list(few)
    assert match_classes(IMAGENET, names, "here").tolist() == list(range(1000))
    with pytest.raises(DataError, match="n01440764"):
        match_classes(few, few[:1] + few[2:], "here")
    assert match_classes(("crane", "goldfish"), names, "here").shape == (2,)
    with pytest.raises(DataError, match="several classes named crane"):
        match_classes(("crane", "goldfish"), ("crane", "goldfish", "crane"), "here")


def test_a_network_of_imagenet_is_evaluated_on_folders_of_wordnet_ids(
    imagenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle(imagenet)
    net = build(catalog.spec("resnet18"))
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.zero_()
        net.head.bias[imagenet_classes().index("cassette player")] = 1.0
    net.classes = imagenet_classes()
    net.preprocess = Preprocessor(Preprocess(size=32, resize=32))
    (tmp_path / "net").mkdir()
    write_folder(net, tmp_path / "net", None)
    assert resnets.load(tmp_path / "net").classes == imagenet_classes()
    assert (
        main(["evaluate", str(tmp_path / "net"), "--data", str(imagenet), "--device", "cpu"]) == 0
    )
    shown = capsys.readouterr().out
    assert "75.00%" in shown  # all are taken for cassette players, and a quarter of them are
    assert "4 of 1,000 classes, all of which compete" in " ".join(shown.split())

"""What a check comes to: leaks first, exit codes, and a command that works when it is pasted."""

import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from detect_sets import write_coco
from PIL import Image

from resnets.cli.main import main
from resnets.config import DataSpec
from resnets.data import DataError, open_data
from resnets.data.check.run import CheckReport, check_data
from resnets.data.check.verdict import exit_code, list_warnings, make_verdict, train_command
from resnets.data.tables.flat_labels import NOT_IN_TABLE
from resnets.detect.check.images_by_split import annotated_contents
from resnets.detect.loading.sources import open_detection


def scene(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """An image of smooth colours, unlike those of other seeds, as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def fill(folder: Path, seeds: range, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        scene(seed).save(folder / f"{seed:03}{suffix}")


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """train/ and test/ of two classes; 4 of 24 training images are copies of test images."""
    root = tmp_path / "my set"
    for place, label in enumerate(("ant", "bee")):
        fill(root / "train" / label, range(100 * place, 100 * place + 10))
        fill(root / "test" / label, range(100 * place + 50, 100 * place + 56))
        first, second = sorted((root / "test" / label).iterdir())[:2]
        shutil.copy(first, root / "train" / label / "it's a copy.png")
        Image.open(second).save(root / "train" / label / "again.jpg", quality=95)
    return root


def check(source: Path, **options: object) -> CheckReport:
    return check_data(DataSpec(source=str(source), workers=1), **options)


def words_of(command: str) -> list[str]:
    """The words that bash makes of a pasted command."""
    script = f"resnets() {{ printf '%s\\0' \"$@\"; }}; {command}"
    found = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    return [word.decode("utf-8", "surrogateescape") for word in found.split(b"\0")[:-1]]


def test_leaks_come_first_and_the_command_trains_without_them(
    leaky: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    fill(leaky / "train" / "bee", range(300, 301))
    (leaky / "train" / "bee" / "broken.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", str(leaky), "--out", "out dir"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"LEAK +4 of 26 training images are copies or near-copies of test", lines[1])
    assert lines[-1] == "exit code 3"
    assert lines[-4].startswith("LEAK: 4 of 26 training images")
    page = (tmp_path / "out dir/report.html").read_text("utf-8")
    assert page.index("4 of 26 training images") < page.index("cannot be read")

    words = words_of(lines[-2].strip())
    small = ["--set", "data.size=16", "--set", "data.resize=16", "--set", "data.val_fraction=0"]
    small += ["--model", "cifar-resnet8", "--set", "batch_size=8", "--iterations", "1"]
    assert main([*words, *small, "--out", "run"]) == 0
    result = json.loads((tmp_path / "run/result.json").read_text("utf-8"))
    assert result["test"]["examples"] == 12
    capsys.readouterr()
    listed = ["--quarantine", "out dir/quarantine.txt"]
    assert main(["data", "check", str(leaky), *listed, "--out", "again"]) == 0
    assert "5 images in quarantine already, 4 leaks among them" in capsys.readouterr().out


def test_no_leak_hides_behind_a_duplicate(leaky: Path) -> None:
    """A near-copy of a test image and copies of it, all in train: each leaks."""
    ant = leaky / "train" / "ant"
    shutil.copy(ant / "again.jpg", ant / "zz a copy of it.jpg")
    Image.open(ant / "again.jpg").save(ant / "zz the same pixels.png")
    report = check(leaky)
    assert {each.path for each in report.leaks} == {
        f"train/{label}/{name}"
        for label, name in (
            ("ant", "it's a copy.png"), ("bee", "it's a copy.png"), ("ant", "again.jpg"),
            ("bee", "again.jpg"), ("ant", "zz a copy of it.jpg"), ("ant", "zz the same pixels.png"),
        )
    }  # fmt: skip
    assert all(each.other_part == "test" for each in report.leaks)


def test_exit_codes(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for place, label in enumerate(("ant", "bee")):
        fill(root / "train" / label, range(100 * place, 100 * place + 4))
        fill(root / "test" / label, range(100 * place + 50, 100 * place + 52))
    assert exit_code(check(root)) == 0
    assert make_verdict(check(root))[0].weight == "good"
    (root / "train" / "ant" / "x.png").write_bytes(b"x")
    assert exit_code(check(root)) == 1
    (root / "quarantine.txt").write_text("train/ant/x.png\n")
    assert exit_code(check(root)) == 0
    shutil.rmtree(root / "train" / "bee")
    report = check(root)
    assert exit_code(report) == 1  # training refuses: test/ has a class that train/ lacks
    assert make_verdict(report)[0].weight == "refused"


def test_one_image_under_two_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One label is wrong: the check fails, and training and evaluation of the run say so."""
    root = tmp_path / "set"
    for place, label in enumerate(("ant", "bee")):
        fill(root / "train" / label, range(100 * place, 100 * place + 4))
        fill(root / "test" / label, range(100 * place + 50, 100 * place + 54))
    assert main(["data", "check", str(root), "--out", str(tmp_path / "good")]) == 0
    for split, seed in (("train", 0), ("test", 50)):
        shutil.copy(root / split / "ant" / f"{seed:03}.png", root / split / "bee" / "copy.png")
    capsys.readouterr()
    assert main(["data", "check", str(root), "--out", str(tmp_path / "bad")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "exit code 1"
    assert make_verdict(check(root))[0].weight == "broken"
    settings = [word for each in ("data.size=32", "batch_size=4") for word in ("--set", each)]
    run = str(tmp_path / "run")
    command = ["train", "digits", "--data", str(root), "--model", "cifar-resnet8", *settings]
    command += ["--set", "model.in_channels=3", "--iterations", "1", "--device", "cpu"]
    assert main([*command, "--out", run]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (warning,) = result["data_summary"]["warnings"]
    assert warning.startswith("4 images")  # two pairs
    capsys.readouterr()
    assert main(["evaluate", run, "--json", "--device", "cpu"]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert [each for each in warnings if each.startswith("2 images")]  # those of the test split
    listed = tmp_path / "list.txt"
    listed.write_text("test/bee/copy.png\ntrain/bee/copy.png\n")
    report = check_data(DataSpec(source=str(root), workers=1, quarantine=str(listed)))
    assert exit_code(report) == 0


def test_a_test_split_that_lacks_a_class_is_reported(tmp_path: Path) -> None:
    for place, label in enumerate(("ant", "bee", "cow")):
        fill(tmp_path / "train" / label, range(100 * place, 100 * place + 4))
        if label != "cow":
            fill(tmp_path / "test" / label, range(100 * place + 50, 100 * place + 52))
    spec = DataSpec(source=str(tmp_path), val_fraction=0)
    (warning,) = open_data(spec, training=True).summary.warnings
    assert warning.endswith(": cow")
    fill(tmp_path / "test" / "cow", range(250, 252))
    assert not open_data(spec, training=True).summary.warnings


TABLES = {
    "good": (),
    "another file": ("images/9.png,ant",),
    "a row twice": ("images/0.png,ant",),
    "header twice": ("path,label",),
    "total": ("TOTAL,8",),
    "a second label": ("images/0.png,bee",),
    "several labels": ("images/0.png,ant;bee",),
    "no label": ("images/0.png,",),
}


@pytest.mark.parametrize("folder", ["images", "pics"])
@pytest.mark.parametrize("rows", TABLES.values(), ids=TABLES)
def test_check_and_training_read_a_table_alike(tmp_path: Path, folder: str, rows) -> None:
    fill(tmp_path / folder, range(9))
    names = [f"{folder}/{seed:03}.png" for seed in range(9)]
    lines = [f"{name},{('ant', 'bee')[place % 2]}" for place, name in enumerate(names[:8])]
    extra = [row.replace("images/0", f"{folder}/000") for row in rows]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *lines, *extra]) + "\n")
    refusal = ""
    try:
        splits = open_data(DataSpec(source=str(tmp_path)), training=True)
    except DataError as error:
        refusal = str(error)
    report = check(tmp_path)
    assert bool(report.refused) == bool(refusal)
    if folder == "images":
        assert bool(refusal) == bool(rows)
    if refusal:
        assert exit_code(report) == 1
        assert refusal.endswith(report.refused[0])
    else:
        assert report.images["training share"] == len(splits.train)
        assert NOT_IN_TABLE in {each.detail for each in report.findings}


def test_one_class_alone_is_refused_whatever_stores_it(tmp_path: Path) -> None:
    fill(tmp_path / "set" / "ant", range(4))
    shards = tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "0.tar", "w") as tar:
        for path in sorted((tmp_path / "set" / "ant").iterdir()):
            label = path.with_suffix(".cls")
            label.write_text("ant")
            tar.add(path, path.name)
            tar.add(label, label.name)
            label.unlink()
    for source in (tmp_path / "set", shards):
        report = check(source)
        assert exit_code(report) == 1
        assert len(report.refused) == 1


def test_faint_images_are_not_copies(tmp_path: Path) -> None:
    """Of 16 bits within 100 levels, which 8 bits do not tell apart, and of 8 bits with little."""
    random = np.random.default_rng(0)
    for number in range(16):
        label = tmp_path / ("train", "test")[number % 2] / ("a", "b")[number // 2 % 2]
        label.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 100, (6, 8)).astype(np.uint8)
        faint = np.asarray(Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC))
        Image.fromarray(faint.astype(np.uint16) + 2000).save(label / f"{number}.png")
        Image.fromarray(faint // 20 + 120).save(label / f"{number} faint.png")
    report = check(tmp_path)
    assert not {each.path for each in report.findings if each.other_image}


def test_images_that_training_excludes_are_reported(tmp_path: Path) -> None:
    for place, label in enumerate(("ant", "bee")):
        fill(tmp_path / "set" / label, range(100 * place, 100 * place + 6))
        for path in sorted((tmp_path / "set" / label).glob("*.png"))[:3]:
            Image.new("L", (64, 48)).save(path.with_name(f"{path.stem}_mask.png"))
    (tmp_path / "set" / "ant" / "photo.cr2").write_bytes(b"raw")
    report = check(tmp_path / "set")
    assert sum(report.images.values()) == 12  # masks are no images
    said = " ".join(point.text for point in make_verdict(report))
    assert "6 images are masks, maps or copies" in said
    assert "1 .cr2 file is not read" in said


def test_a_set_without_parts_is_divided_as_training_divides_it(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for place, label in enumerate(("ant", "bee")):
        fill(root / label, range(100 * place, 100 * place + 30))
        for path in sorted((root / label).iterdir())[:20]:
            Image.open(path).save(path.with_name(f"{path.stem} again.jpg"), quality=70)
    report = check(root)
    assert set(report.images) == {"test share", "validation share", "training share"}
    assert sum(report.images.values()) == 100
    assert report.leaks
    assert exit_code(report) == 3
    assert "training images are near-copies of test images" in make_verdict(report)[0].text


def test_class_counts_and_what_is_not_measured(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for place, (label, count) in enumerate((("ant", 33), ("bee", 3), ("cow", 5))):
        fill(root / "train" / label, range(100 * place, 100 * place + count))
        if label != "cow":
            fill(root / "val" / label, range(100 * place + 50, 100 * place + 52))
    report = check(root)
    details = {each.kind.name: each.detail for each in report.findings}
    assert details["imbalance"].startswith("ant 33, bee 3 images: 11 to 1")
    assert details["unmeasured-class"].startswith("cow")
    assert exit_code(report) == 0


@pytest.mark.parametrize("name", ["plain", "it's $HOME", 'a "b"', "tab\there", "caf\udce9", "-x"])
def test_the_command_survives_any_path(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    spec = DataSpec(source=str(tmp_path / name))
    words = words_of(train_command(spec, tmp_path / name / "quarantine.txt"))
    assert words[3] == str(tmp_path / name)
    assert words[5] == f"data.quarantine={tmp_path / name}/quarantine.txt"


def test_annotated_sets_lead_with_leaks_too(tmp_path: Path, capsys, monkeypatch) -> None:
    """An image that train and test list is one image; class maps are none."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "set"
    for number, title in enumerate(("train", "test")):
        write_coco(root, title, [(80, 60)] * 4)
        for place, path in enumerate(sorted((root / title).glob("*.png"))):
            scene(100 * number + place, (80, 60)).save(path)
    (root / "semantic_train").mkdir()
    Image.new("L", (80, 60)).save(root / "semantic_train" / "train0001.png")
    first = sorted((root / "test").glob("*.png"))[0]
    Image.open(first).save(root / "train" / "train0002.png", compress_level=1)
    assert main(["data", "check", "set"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "8 images: 4 test, 4 train"
    assert re.match(r"LEAK +1 of 4 training images is a copy of test images", lines[1])
    assert words_of(lines[-2].strip())[:3] == ["train", "detect", "--data"]


def test_one_image_set_is_divided_as_training_divides_it(tmp_path: Path) -> None:
    write_coco(tmp_path, "train", [(40, 30)] * 20)
    for place, path in enumerate(sorted((tmp_path / "train").glob("*.png"))):
        scene(place, (40, 30)).save(path)
    spec = DataSpec(source=str(tmp_path))
    contents = annotated_contents(spec, "instances")
    splits = open_detection(spec)
    found = {section.part: section.files.paths for section in contents.sections}
    assert found == {
        "test share": splits.test().files.paths,
        "validation share": splits.val.files.paths,
        "training share": splits.train.files.paths,
    }


def test_a_warning_is_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of the summary of the data set, one of its classes."""
    root = tmp_path / "set"
    for place, label in enumerate(("-1", "ant")):
        fill(root / label, range(100 * place, 100 * place + 20))
    (root / "split.csv").write_text("file,split\n000.png,train\n101.png,test\n")
    warnings = list_warnings(check(root))
    assert len(warnings) == 2
    assert main(["data", "check", str(root), "--out", str(tmp_path / "out")]) == 0
    printed = " ".join(" ".join(capsys.readouterr()).split())  # lines are wrapped
    assert [printed.count(each) for each in warnings] == [1, 1]

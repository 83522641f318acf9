"""Malformed files through check, train, evaluate and predict: none stops them, each is named."""

import csv
import io
import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from malformed_images import sound, write_malformed, write_oddities
from PIL import Image

from resnets.cli.main import main
from resnets.data.decode.open_image import MAX_PIXELS

# pytest resets the filters by which the decoder silences Pillow.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
DEVICE = ("--device", "cpu", "--precision", "float32")


@dataclass(frozen=True)
class Tree:
    """root/{ant,bee} of malformed files, and the same behind links; paths within the root."""

    root: Path
    again: Path
    files: frozenset[str]
    broken: frozenset[str]


def by_pillow(path: Path) -> bool:
    """Whether Pillow, asked without our code, refuses a file."""
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            image.load()
            image.convert("RGB")
            return image.width * image.height > MAX_PIXELS or image.mode == "F"
    except Exception:  # decoders raise anything
        return True


def grow_tree(place: Path, count: int) -> Tree:
    """`count` malformed files, oddities and a fifth as many sound images, in two classes."""
    root, again = place / "set", place / "again"
    random = np.random.default_rng(5)
    files = []
    for seed, name in enumerate(("ant", "bee")):
        files += write_malformed(root / name, count // 2, seed)
        files += write_oddities(root / name)
        files += [root / name / "folder.png" / "inside.png"]  # the pipe is left out, and counted
        files += [root / name / f"sound{number}.png" for number in range(count // 10)]
        for path in files[-1 - count // 10 :]:
            path.write_bytes(sound("PNG", random))
        (again / name).parent.mkdir(exist_ok=True)
        (again / name).symlink_to(root / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        regular = [path for path in files if path.is_file()]
        broken = [path for path in files if path not in regular or by_pillow(path)]
    return Tree(
        root,
        again,
        frozenset(path.relative_to(root).as_posix() for path in files),
        frozenset(path.relative_to(root).as_posix() for path in broken),
    )


def call(capfd, *words) -> tuple[int, str, str]:
    code = main([*map(str, words)])
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    return code, out, err


def named(messages: list[str], root: Path) -> set[str]:
    """The files below `root` that messages begin with."""
    names = [message.partition(": cannot be read")[0] for message in messages]
    assert len(names) == len(set(names))
    return {Path(name).relative_to(root).as_posix() for name in names}


def are_named(found: set[str], tree: Tree) -> None:
    """All that Pillow refuses but JPEGs that are damaged where a view does not look; no other."""
    assert found <= tree.broken
    for name in tree.broken - found:
        with Image.open(tree.root / name) as image:
            assert image.format in ("JPEG", "MPO"), name


def go_through(capfd, caplog, place: Path, count: int) -> None:
    tree = grow_tree(place, count)
    assert 0.4 * count < len(tree.broken) < 0.9 * len(tree.files)

    code, out, _ = call(capfd, "data", "check", tree.root, "--out", place / "check")
    assert code == 1
    assert f"{len(tree.files):,} images" in out
    rows = list(csv.DictReader((place / "check" / "files.csv").open(encoding="utf-8")))
    assert {row["path"] for row in rows if row["weight"] == "broken"} == tree.broken
    lines = (place / "check" / "quarantine.txt").read_text().splitlines()[1:]
    assert {line.split("\t")[0] for line in lines} == tree.broken

    run = place / "run"
    sets = [
        "data.size=24",
        "data.max_unreadable=0.97",
        "data.augment.crop=random-resized",
        "batch_size=32",
    ]
    words = [
        "train",
        "digits",
        "--model",
        "cifar-resnet8",
        "--data",
        tree.root,
        "--out",
        run,
        *DEVICE[:2],
    ]
    sets += ["precision=float32"]
    words += [word for text in sets for word in ("--set", text)]
    code, _, err = call(capfd, *words, "--epochs", 2)
    assert code == 0, err
    result = json.loads((run / "result.json").read_text())
    messages = [
        message for part in ("train", "val", "test") for message in result[part]["unreadable"]
    ]
    are_named(named(messages, tree.root), tree)
    logged = [record.message for record in caplog.records]
    assert all(logged.count(message) == 1 for message in messages)
    caplog.clear()
    measured = sum(result[part]["examples"] for part in ("val", "test"))
    assert measured > 0

    code, out, err = call(capfd, "evaluate", run, "--data", tree.again, "--json", *DEVICE)
    result = json.loads(out)
    assert code == 1
    # The same set at another place: the share that the run held out is measured, and no more.
    assert 0 < result["examples"] + len(result["unreadable"]) < 0.3 * len(tree.files)
    assert named(result["unreadable"], tree.again) <= tree.broken

    code, out, err = call(capfd, "predict", run, tree.root, "--json", *DEVICE)
    entries = json.loads(out)
    assert code == 1
    are_named(
        named([each["error"] for each in entries if "error" in each], tree.root),
        tree,
    )  # passed over in folders
    assert len(entries) == len(tree.files)

    words = [*words, "--set", f"data.quarantine={place / 'check' / 'quarantine.txt'}"]
    words[words.index("--out") + 1] = place / "clean"
    words[words.index("data.max_unreadable=0.97")] = "data.max_unreadable=0"
    code, _, err = call(capfd, *words, "--epochs", 1)
    assert code == 0, err
    assert not [
        record
        for record in caplog.records
        if record.name == "resnets" and record.levelno >= logging.WARNING
    ]


@pytest.mark.ci
def test_some_hundred_malformed_files(capfd, caplog, tmp_path):
    go_through(capfd, caplog, tmp_path, 264)


@pytest.mark.slow
def test_two_thousand_malformed_files(capfd, caplog, tmp_path):
    go_through(capfd, caplog, tmp_path, 2000)

"""A run remembers its images: none that was trained on is measured as held out, and vice versa."""

import json
import logging
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from digit_folders import recipe, write_tree
from digit_sets import digit_files
from paths import GOLDEN
from PIL import Image

import resnets
from resnets.cli.main import main
from resnets.config import DataSpec, ModelSpec, Recipe, to_toml
from resnets.data import DataError, Split, Splits, open_data
from resnets.data.splits.image_record import Fingerprint
from resnets.evaluate.data.match_classes import open_labeled, open_split
from resnets.train.run import run_training
from resnets.weights.checkpoint import image_record
from resnets.weights.checkpoint.format import read_checkpoint

FILES = DataSpec(in_memory="never")
OLD = GOLDEN / "rank_rule"


def paths(split: Split | None) -> set[str]:
    assert split is not None
    found = (split.files.name(row).replace(":", "/") for row in range(len(split)))
    return {"/".join(name.split("/")[-2:]) for name in found}


def opened(source: Path, known: Fingerprint | None = None, **changes: object) -> Splits:
    spec = replace(FILES, source=str(source), **changes)
    return open_data(spec, known, training=True)


def shares(splits: Splits) -> list[set[str]]:
    return [paths(each) for each in (splits.train, splits.val, splits.test())]


def test_a_record_survives_a_checkpoint_and_an_unchanged_set(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set")
    first = opened(tree)
    assert first.fingerprint.counts() == {
        "train": len(first.train),
        "val": len(first.val),
        "test": len(first.test()),
    }
    again = Fingerprint.from_tensors(first.fingerprint.tensors())
    second = opened(tree, again)
    assert not second.changes
    assert shares(second) == shares(first)
    for name, tensor in first.fingerprint.tensors().items():
        assert torch.equal(tensor, second.fingerprint.tensors()[name])


def test_images_keep_their_split_whatever_else_changes(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set")
    first = opened(tree)
    train, val, test = shares(first)
    moved = tmp_path / "renamed"
    shutil.copytree(tree, moved)
    gone, changed = sorted(train)[:2]
    (moved / gone).unlink()
    extra = [data for data, _ in digit_files(40, 3)][-3:]
    (moved / changed).write_bytes(extra[0])
    (moved / "digit0" / "new.png").write_bytes(extra[1])
    for name in ("digit0", "digit1", "digit2"):  # renamed folders: only contents tell the images
        (moved / name).rename(moved / f"c{name}")
    second = opened(moved, first.fingerprint)
    for before, after in zip((train, val, test), shares(second), strict=True):
        assert {f"c{path}" for path in before} - {f"c{gone}", f"c{changed}"} <= after
    count = second.changes.counts
    assert sum(each["added"] for each in count.values()) == 2  # its path changed, and its content
    assert count["train"]["removed"] == 2
    (moved / "cdigit0").rename(moved / "digit0")
    third = opened(tree, second.fingerprint)  # nothing is forgotten
    assert shares(third) == [train, val, test]


def test_changed_contents_are_counted_by_split(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set")
    first = opened(tree)
    extra = [data for data, _ in digit_files(40, 3)][-3:]
    for split, data in zip(shares(first), extra, strict=True):
        (tree / min(split)).write_bytes(data)
    second = opened(tree, first.fingerprint)
    assert shares(second) == shares(first)
    assert {role: each["changed"] for role, each in second.changes.counts.items()} == {
        "train": 1,
        "val": 1,
        "test": 1,
    }


def reencode(tree: Path, suffix: str) -> None:
    """The images under the same names with another suffix, and so with other bytes."""
    for path in sorted(tree.rglob("*.png")):
        Image.open(path).save(path.with_suffix(suffix), lossless=True)
        path.unlink()


def test_images_that_were_encoded_again_keep_their_split(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set")
    first = opened(tree)
    reencode(tree, ".webp")
    (tree / "digit0" / "new.png").write_bytes(digit_files(40, 3)[-3][0])
    second = opened(tree, first.fingerprint)
    for before, after in zip(shares(first), shares(second), strict=True):
        assert {path.removesuffix(".png") for path in before} <= {
            path.rpartition(".")[0] for path in after
        }
    count = second.changes.counts
    assert sum(each["changed"] for each in count.values()) == 36
    assert sum(each["added"] for each in count.values()) == 1
    assert sum(each["removed"] for each in count.values()) == 0


def counted(splits: Splits, what: str) -> int:
    return sum(each[what] for each in splits.changes.counts.values())


def renumber(tree: Path, *, start: int) -> None:
    """The images of each class called anew, in their order."""
    for folder in sorted(tree.iterdir()):
        files = sorted(folder.iterdir())
        for path in files:
            path.rename(path.with_suffix(".old"))
        for number, path in enumerate(files, start=start):
            path.with_suffix(".old").rename(folder / f"{number:03d}.png")


def test_removals_are_counted_where_the_others_were_numbered_again(tmp_path: Path) -> None:
    """By content: a path that another image has taken does not stand for the one that was there."""
    tree = write_tree(tmp_path / "set")
    renumber(tree, start=0)
    first = opened(tree)
    kept = sorted(path.read_bytes() for path in tree.rglob("*.png"))
    for folder in sorted(tree.iterdir()):
        kept.remove((folder / "000.png").read_bytes())
        (folder / "000.png").unlink()
    renumber(tree, start=0)
    second = opened(tree, first.fingerprint)
    assert counted(second, "removed") == 3
    assert counted(second, "renamed") == len(kept)
    assert counted(second, "added") == counted(second, "changed") == 0
    assert not opened(tree, first.fingerprint.merged(second.fingerprint)).changes.counts["train"][
        "renamed"
    ]
    for folder in sorted(tree.iterdir()):  # one that was encoded anew at the path of one removed
        path = folder / "001.png"
        Image.open(path).save(path, compress_level=0)
    third = opened(tree, first.fingerprint)
    assert counted(third, "removed") + counted(third, "changed") == 6


def test_an_image_put_before_the_others_is_added_not_changed(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set")
    renumber(tree, start=0)
    first = opened(tree)
    images = len(list(tree.rglob("*.png")))
    renumber(tree, start=1)
    extra = [data for data, _ in digit_files(40, 3)][-3:]
    for folder, data in zip(sorted(tree.iterdir()), extra, strict=True):
        (folder / "000.png").write_bytes(data)
    second = opened(tree, first.fingerprint)
    assert (counted(second, "added"), counted(second, "renamed")) == (3, images)
    assert counted(second, "removed") == counted(second, "changed") == 0
    (folder / "copy.png").write_bytes((folder / "001.png").read_bytes())
    third = opened(tree, first.fingerprint)
    assert counted(third, "added") + counted(third, "renamed") == images + 4


def test_a_name_next_to_one_that_is_left_is_a_new_image(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set")
    first = opened(tree)
    path = min(tree.rglob("*.png"))
    Image.open(path).rotate(90).save(path.with_suffix(".bmp"))
    second = opened(tree, first.fingerprint)
    count = second.changes.counts
    assert sum(each["added"] for each in count.values()) == 1
    assert sum(each["changed"] for each in count.values()) == 0


def test_a_set_of_which_nothing_is_recognized_is_refused(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set")
    first = opened(tree)
    shutil.rmtree(tree)
    for number, path in enumerate(sorted(write_tree(tree, 20, 12).rglob("*.png"))):
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)
        path.rename(path.with_name(f"other-{number}.png"))
    with pytest.raises(DataError, match="recognized"):
        opened(tree, first.fingerprint)
    with pytest.raises(DataError, match="recognized"):
        open_split(net_of(first.fingerprint, tree), None, "test")


def test_images_that_moved_to_another_class_are_counted(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set")
    first = opened(tree)
    (tree / "digit0").rename(tree / "swap")
    (tree / "digit1").rename(tree / "digit0")
    (tree / "swap").rename(tree / "digit1")
    second = opened(tree, first.fingerprint)
    images = sum(len(list((tree / f"digit{label}").iterdir())) for label in (0, 1))
    assert sum(each["relabelled"] for each in second.changes.counts.values()) == images
    split = open_split(net_of(first.fingerprint, tree), None, "test")
    assert "relabelled" in split.description
    assert not opened(tree, first.fingerprint.merged(second.fingerprint)).changes  # seen since


def test_parts_that_exchanged_their_names(tmp_path: Path) -> None:
    tree = tmp_path / "set"
    for name, start in (("train", 0), ("test", 12)):
        write_tree(tree / name, start)
    first = opened(tree, val_fraction=0.0)
    (tree / "train").rename(tree / "swap")
    (tree / "test").rename(tree / "train")
    (tree / "swap").rename(tree / "test")
    known, spec = first.fingerprint, replace(FILES, source=str(tree), val_fraction=0.0)
    with pytest.raises(DataError, match="all of its 36 images were trained on"):
        open_data(spec, known)
    (tree / "test" / "digit0" / "new.png").write_bytes(digit_files(80, 3)[-3][0])
    with pytest.raises(DataError, match="no training images are left"):
        open_data(spec, known, training=True)
    splits = open_data(spec, known)
    assert paths(splits.test()) == {"digit0/new.png"}
    with pytest.raises(DataError, match="no training images are left"):
        _ = splits.train


def test_images_between_parts_of_their_own(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_tree(root / "train")
    write_tree(root / "test", first=12, count=5)
    first = opened(root)
    known = first.fingerprint
    a_test, a_train = min(paths(first.test())), min(paths(first.train))
    (root / "test" / a_test).rename(root / "train" / a_test)
    shutil.copy(root / "train" / a_train, root / "test" / a_train)
    second = opened(root, known)
    assert a_test not in paths(second.train)  # it was held out before
    assert a_train not in paths(second.test())  # it was trained on
    assert "1 excluded that were held out before" in second.train.description
    assert "1 excluded because they were trained on" in second.test().description


def net_of(known: Fingerprint, source: Path, origin: str = "net") -> resnets.models.ImageClassifier:
    """Something that was trained on `source`, as evaluation sees it."""
    spec = ModelSpec(depths=(1,), widths=(4,), stem="cifar", stem_width=4, num_classes=3)
    net = resnets.models.build(spec)
    net.classes = ("digit0", "digit1", "digit2")
    net.recipe = Recipe(model=spec, data=replace(FILES, source=str(source), size=16))
    net.preprocess = resnets.data.Preprocessor(resnets.config.Preprocess(size=16, resize=16))
    net.fingerprint, net.origin = known, origin
    return net


def test_a_moved_set_or_its_tar_is_measured_on_its_test_share(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set")
    first = opened(tree)
    net = net_of(first.fingerprint, tree)
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(tree, "other")
    for source in (None, str(shutil.copytree(tree, tmp_path / "moved")), str(tmp_path / "set.tar")):
        for role, expected in zip(("train", "val", "test"), shares(first), strict=True):
            assert paths(open_split(net, source, role, stored=True)) == expected


def test_another_set_is_measured_without_what_was_trained_on(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set")
    first = opened(tree)
    net = net_of(first.fingerprint, tree)
    other = write_tree(tmp_path / "other", first=12, count=6)
    assert len(open_split(net, str(other), "test", stored=True)) == 18
    seen = sorted(paths(first.train))[:4]
    for path in seen:
        shutil.copy(tree / path, other / path)
    split = open_split(net, str(other), "test", stored=True)
    assert len(split) == 18
    assert paths(split).isdisjoint(seen)
    assert "4 excluded because they were trained on" in split.description
    only = tmp_path / "only"
    for path in paths(first.train):
        (only / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / path, only / path)
    with pytest.raises(DataError, match="trained on"):
        open_split(net, str(only), "test", stored=True)


def test_an_ensemble_is_measured_on_what_none_of_it_was_trained_on(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set", count=40)
    shares_of = {"test_fraction": 0.4}
    first, second = opened(tree, **shares_of), opened(tree, split_seed=5, **shares_of)
    nets = [net_of(each.fingerprint, tree) for each in (first, second)]
    trained = [paths(each.train) for each in (first, second)]
    assert paths(open_split(nets[0], None, "test")) & trained[1]  # or this test shows nothing
    together = paths(open_split(nets[0], None, "test", others=nets[1:]))
    assert together
    assert together.isdisjoint(trained[0] | trained[1])


def test_what_is_not_compared_is_reported(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set")
    split = open_split(net_of(None, tree), None, "test")
    assert "not compared with training images" in split.description


def test_loose_files_with_labels(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set")
    first = opened(tree)
    net = net_of(first.fingerprint, tree)
    flat = tmp_path / "flat"
    flat.mkdir()
    rows = []
    for path in sorted(paths(first.train))[:3] + sorted(paths(first.test())):
        name = path.replace("/", "-")
        shutil.copy(tree / path, flat / name)
        rows.append(f"{name},{path.split('/')[0]}\n")
    (tmp_path / "labels.csv").write_text("".join(rows))
    split, truth = open_labeled(net, str(flat), "test", tmp_path / "labels.csv")
    assert len(split) == len(truth.rows) == len(rows) - 3
    assert "3 excluded because they were trained on" in split.description


def test_large_records_lie_next_to_the_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(image_record, "MAX_EMBEDDED", 3)
    tree = write_tree(tmp_path / "set")
    run_training(recipe(tree), tmp_path / "run", device="cpu", quiet=True)
    folder = tmp_path / "run" / "checkpoints"
    (beside,) = folder.glob("images-*.safetensors")
    checkpoint = read_checkpoint(folder / "last.safetensors")
    assert not checkpoint.group("set")
    found = image_record.read_fingerprint(checkpoint)
    assert found.counts() == opened(tree).fingerprint.counts()
    beside.unlink()
    with caplog.at_level(logging.WARNING):
        assert image_record.read_fingerprint(checkpoint) is None
    assert beside.name in caplog.text


def test_resume_and_evaluate_report_a_changed_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree, run = write_tree(tmp_path / "set"), tmp_path / "run"
    run_training(recipe(tree), run, device="cpu", quiet=True)
    before = shares(opened(tree))
    for number, (data, digit) in enumerate(digit_files(24, 3)[-20:]):
        (tree / f"digit{digit}" / f"000-{number}.png").write_bytes(data)
    (tree / min(before[0])).unlink()
    assert main(["evaluate", str(run), "--device", "cpu", "--json"]) == 0
    protocol = json.loads(capsys.readouterr().out)["protocol"]
    assert "changed since training" in protocol
    assert main(["train", "--resume", str(run), "--iterations", "12", "--device", "cpu"]) == 0
    result = json.loads((run / "result.json").read_text())
    changes = result["splits"]["changes"]
    assert sum(each["added"] for each in changes.values()) == 20
    assert changes["train"]["removed"] == 1
    assert sum(result["splits"]["images"].values()) == 36 + 20 - 1
    after = shares(opened(tree, resnets.load(run).fingerprint))
    assert before[0] - after[0] == {min(before[0])}
    assert before[1] <= after[1]
    assert before[2] <= after[2]
    assert any("the set changed since" in each["note"] for each in result["history"])
    page = (run / "report.html").read_text()
    assert all(each["step"] == 8 for each in result["history"])
    assert "Notes on this run" in page


def test_a_run_of_an_earlier_version_says_that_nothing_was_compared(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set", count=10)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("best.safetensors", "last.safetensors"):
        shutil.copy(OLD / name, run / "checkpoints" / name)
    shutil.copy(OLD / "recipe.toml", run)
    (run / "metrics.jsonl").write_text("")
    result = run_training(None, run, data=str(tree), device="cpu", quiet=True)
    assert result["splits"]["changes"] is None
    assert any("no record" in each["note"] for each in result["history"])
    assert result["test"]["examples"] == 6


# Byte-identical images of training and held-out splits


def with_copies(root: Path, count: int = 2) -> Path:
    write_tree(root / "train")
    write_tree(root / "test", first=12, count=4)
    for path in sorted((root / "train" / "digit1").iterdir())[:count]:
        shutil.copy(path, root / "test" / "digit1" / f"copy-{path.name}")
    return root


def test_overlap_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    root = with_copies(tmp_path / "set")
    with pytest.raises(DataError, match="2.*overlap=leave-out.*overlap=allow"):
        run_training(recipe(root), tmp_path / "run", device="cpu", quiet=True)
    assert not (tmp_path / "run").exists()


def test_overlap_excluded_or_allowed(tmp_path: Path) -> None:
    root = with_copies(tmp_path / "set")
    whole = open_data(replace(FILES, source=str(root)))
    less = opened(root, overlap="leave-out")
    assert len(less.train) + len(less.val) == len(whole.train) + len(whole.val) - 2
    assert "excluded that are copies of held-out images" in less.train.description
    assert len(less.test()) == 14
    more = opened(root, overlap="allow")
    assert len(more.train) == len(whole.train)
    assert "2 of them byte-identical to images trained" in more.test().description
    again = opened(root, more.fingerprint, overlap="allow")
    assert "2 of them byte-identical to images trained" in again.test().description
    net = net_of(more.fingerprint, root)
    assert "2 of them" in open_split(net, None, "test", stored=True).description
    allowed = recipe(root, overlap="allow")
    result = run_training(allowed, tmp_path / "run", device="cpu", quiet=True)
    assert result["splits"]["overlap"] == {"test": 2}
    assert "byte-identical" in result["test"]["protocol"]
    assert "byte-identical" in (tmp_path / "run" / "report.html").read_text()


def test_copies_within_a_set_without_splits_are_not_an_overlap(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set")
    for path in sorted(tree.rglob("*.png")):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    splits = opened(tree)
    assert not splits.overlaps
    for split in shares(splits):
        assert split == {path.replace("copy-", "") for path in split} | {
            path.replace("/", "/copy-") for path in split if "copy-" not in path
        }


def test_arrays_overlap_too(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)

    def idx(name: str, values: np.ndarray) -> None:
        head = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
        (tmp_path / name).write_bytes(head + values.astype(np.uint8).tobytes())

    images = chance.integers(0, 255, (40, 8, 8))
    idx("train-images-idx3-ubyte", images)
    idx("train-labels-idx1-ubyte", np.arange(40) % 2)
    idx("t10k-images-idx3-ubyte", np.concatenate([images[:1], images[:5] + 1]))
    idx("t10k-labels-idx1-ubyte", np.arange(6) % 2)
    with pytest.raises(DataError, match="1 test image is"):
        opened(tmp_path)


def test_a_recipe_states_what_it_does_with_overlap() -> None:
    assert 'overlap = "refuse"' in to_toml(Recipe())

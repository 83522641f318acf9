"""Tiles of one scene, told by their names, that fall into training and held-out splits."""

import re
import uuid

import numpy as np
import pytest
from PIL import Image

from resnets.cli.main import main
from resnets.config import DataSpec
from resnets.data.splits.image_versions import find_sources, series_warnings
from resnets.data.splits.open import open_data


@pytest.mark.parametrize(
    ("names", "scenes"),
    [
        ([f"{s}_{x}_{y}.png" for s in "ab" for x in (0, 256, 512) for y in (0, 256)], 2),
        ([f"a_x{x}_y{y}.png" for x in (0, 192, 384, 400) for y in (0, 192)], 1),  # edge moved back
        ([f"a_{x}_{y}.png" for x in range(4) for y in range(4)], 0),  # counts
        ([f"img_2020_{m:02}.png" for m in range(1, 13)], 0),
        ([f"a_{x}_0.png" for x in (0, 256, 512, 768)], 0),  # no grid
    ],
)
def test_tiles_of_one_scene_have_one_source(names, scenes):
    found = find_sources(names, range(len(names)))
    assert len(set(found.values())) == scenes
    assert len(found) == (len(names) if scenes else 0)


def test_scenes_across_splits_are_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for row in (0, 16):
        for column in range(0, 128, 16):
            split = "test" if column >= 96 else "train"
            folder = tmp_path / "set" / split / "ab"[(column + row) // 16 % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"field_{column}_{row}.png")
    splits = open_data(DataSpec(source="set", val_fraction=0), training=True)
    (said,) = (line for line in splits.summary.warnings if "tiles" in line)
    assert "4 held-out images" in said
    main(["data", "check", "set"])
    assert "12 images" in next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("WARNING")
    )


def test_frames_of_a_video_across_splits_are_warned_about(tmp_path, monkeypatch):
    """As UCF101's frames are stored: class/clip/frame_0001.png."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("bowl", "swim"):
        for clip in range(3):
            folder = tmp_path / "set" / name / f"v_{name}_c{clip}"
            folder.mkdir(parents=True)
            for number in range(6):
                pixels = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"frame_{number:04}.png")
        for number in range(6):  # numbered files of a class are no series
            pixels = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
            (tmp_path / "plain" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "plain" / name / f"{number:04}.png")

    def warned(source: str, **fields) -> bool:
        spec = DataSpec(source=source, val_fraction=0.2, test_fraction=0.2, **fields)
        warnings = open_data(spec, training=True).summary.warnings
        return any("numbered images" in line for line in warnings)

    assert warned("set")
    assert not warned("set", group="regex:(.+)/")
    assert not warned("plain")


@pytest.mark.parametrize(
    ("names", "is_one"),
    [
        (["{}/p{}_{}.png"], True),  # objects of a photograph, by class
        (["{}/p{}_frame_{}.png", "{}/p{}_frame_0.png"], False),  # both classes number their clips
    ],
)
def test_the_group_that_is_advised_follows_a_series_into_other_folders(names, is_one):
    paths = [
        name.format("ab"[number % 2 if "frame" not in name else number // 8], photo, number)
        for name in names
        for photo in range(3)
        for number in range(16)
    ]
    paths = sorted(set(paths))
    (said,) = series_warnings(
        paths, [path[0] for path in paths], [n % 2 for n in range(len(paths))]
    )
    pattern = re.search(r"data\.group=regex:(.+)'", said)[1]
    groups = {path: re.search(pattern, path)[1] for path in paths}
    assert len(set(groups.values())) == (3 if is_one else 6)


@pytest.mark.parametrize(
    ("names", "sources"),
    [
        (["a/p1.png", "a/p1_hflip.png", "a/p1_rot15.png", "a/p2-aug3.png", "a/p2.png"], 2),
        (["a/p1_flipped_rot90.png", "a/p1_noise.png", "a/p1 (1).png", "a/p1.png"], 1),
        (["a/flip_p1.png", "a/p1.png", f"a/a_original_p1.jpg_{uuid.UUID(int=7)}.jpg"], 1),
        (["a/images.jpg", "a/images (1).jpg", "a/images (2).jpg"], 0),  # a browser's downloads
        (["a/cat_crop_1.png", "a/cat_crop_2.png"], 0),  # what a word names has no number
        (["x/a/1_flip.png", "y/a/1_flip.png", "x/a/1.png"], 0),  # two images of one name
        (["a/IMG_0001.png", "a/IMG_0002.png"], 0),
    ],
)  # fmt: skip
def test_augmented_images_have_one_source(names, sources):
    found = find_sources(names, ["a"] * len(names))
    assert len(set(found.values())) == sources
    assert len(found) == (len(names) if sources else 0)


def test_augmented_images_and_frames_in_one_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("bowl", "swim"):
        for folder in ("aug", "video", "plain"):
            (tmp_path / folder / name).mkdir(parents=True)
        for number in range(6):
            for tail in ("", "_hflip", "_rot15"):
                pixels = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / f"aug/{name}/photo{number:03}{tail}.png")
        for clip, frame in ((clip, frame) for clip in range(3) for frame in range(0, 30, 5)):
            pixels = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"video/{name}/c{clip}_frame{frame:04}.png")
            number = rng.integers(10**6)
            Image.fromarray(pixels).save(tmp_path / f"plain/{name}/200{clip}_{number:06}.png")

    def warned(source: str, **fields) -> list[str]:
        spec = DataSpec(source=source, val_fraction=0.2, test_fraction=0.2, **fields)
        warnings = open_data(spec, training=True).summary.warnings
        return [line for line in warnings if "data.group" in line]

    for source in ("aug", "video"):
        (said,) = warned(source)
        pattern = re.search(r"'data\.group=(regex:[^']+)'", said)[1]
        assert warned(source, group=pattern) == []
        assert main(["data", "check", source]) == 0
        assert "WARNING" in capsys.readouterr().out
    assert warned("plain") == []

"""Tiles of one scene, told by their names, that fall into training and held-out splits."""

import numpy as np
import pytest
from PIL import Image

from resnets.cli.main import main
from resnets.config import DataSpec
from resnets.data.splits.image_versions import sources_by_name
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
    found = sources_by_name(names, range(len(names)))
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
        line for line in capsys.readouterr().out.splitlines() if "same source" in line
    )


def test_frames_of_a_video_across_splits_are_warned_of(tmp_path, monkeypatch):
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

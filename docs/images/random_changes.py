"""Draws random-changes.jpg: what the fields of data.augment do to images, as the network gets them.

    python docs/images/random_changes.py

The photographs come with scikit-learn (danielbuechele and vultilion on Flickr, CC BY 2.0).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from PIL import Image
from sklearn.datasets import load_sample_images

from resnets.config import AugmentSpec, DataSpec
from resnets.data import TrainStream, fit_preprocess, open_data

SHOWN = 8
CROP = {"crop": "random-resized", "flip": True}
ROWS = {
    "crop, flip": AugmentSpec(**CROP),
    "vertical_flip, rotate90": AugmentSpec(**CROP, vertical_flip=True, rotate90=True),
    "color_jitter": AugmentSpec(**CROP, color_jitter=(0.4, 0.4, 0.4, 0.1)),
    "grayscale": AugmentSpec(**CROP, grayscale=0.5),
    "blur": AugmentSpec(**CROP, blur=0.5, blur_sigma=(0.5, 2.0)),
    "policy rand": AugmentSpec(**CROP, policy="rand"),
    "policy trivial": AugmentSpec(**CROP, policy="trivial"),
    "random_erase": AugmentSpec(**CROP, random_erase=1.0),
    "mixup": AugmentSpec(**CROP, mixup=1.0),
    "cutmix": AugmentSpec(**CROP, cutmix=1.0),
}


def augmented(folder: Path, augment: AugmentSpec) -> torch.Tensor:
    """(SHOWN, S, S, 3) in 0..1: four batches of the two photographs."""
    spec = DataSpec(
        source=str(folder), size=112, val_fraction=0, test_fraction=0, augment=augment,
        normalize="imagenet",
    )  # fmt: skip
    train = open_data(spec).train
    preprocessor = fit_preprocess(train, spec, 3)
    stream = TrainStream(train, spec, preprocessor, 2, 0, torch.device("cpu")).batches()
    images = torch.cat([next(stream).images for _ in range(SHOWN // 2)])
    mean, scale = preprocessor.mean_and_scale(images.device)
    return ((images / scale + mean) / 255).clamp(0, 1).permute(0, 2, 3, 1)


def main() -> None:
    """Write the figure beside this script."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, pixels in enumerate(load_sample_images().images):
            (folder / "ab"[number]).mkdir()
            Image.fromarray(pixels).save(folder / "ab"[number] / "0.png")
        grid = {title: augmented(folder, augment) for title, augment in ROWS.items()}
    figure, axes = plt.subplots(
        len(grid), SHOWN, figsize=(SHOWN + 1.6, len(grid)), dpi=100,
        gridspec_kw={"wspace": 0.04, "hspace": 0.04, "left": 0.17, "right": 0.995,
                     "top": 0.995, "bottom": 0.005},
    )  # fmt: skip
    for line, (title, images) in zip(axes, grid.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image.numpy())
            axis.set_axis_off()
        line[0].text(-8, 56, title, ha="right", va="center", fontsize=9)
    path = Path(__file__).with_name("random-changes.jpg")
    figure.savefig(path, pil_kwargs={"quality": 85})


if __name__ == "__main__":
    main()

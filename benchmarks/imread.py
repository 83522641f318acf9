"""Whole JPEG files decoded to RGB arrays, by library: the protocol of imread_benchmark.

    python benchmarks/imread.py [--folder DIR] [--images 200] [--rounds 5] [--record imread]

As in github.com/ternaus/imread_benchmark in its mode `memory` with one thread: files are read
before the clock starts; each library makes NumPy arrays (H, W, 3) uint8 in RGB of all of them,
several times. Here the libraries take turns in one process, and time is CPU time, which other
jobs on the machine affect less. Images: all JPEGs below a folder, or 500 x 375 px made here.
Libraries that are not installed are skipped:

    pip install 'resnets[bench]' imageio scikit-image kornia-rs
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jpeg_files import describe, write_images
from numpy.typing import NDArray
from recording import make_parser, report
from timing import format_ratio

Decode = Callable[[bytes], NDArray[np.uint8]]
REFERENCE = "Pillow"


def pillow() -> Decode:
    from PIL import Image

    return lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def opencv() -> Decode:
    import cv2

    cv2.setNumThreads(0)
    return lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def torchvision() -> Decode:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    torch.set_num_threads(1)

    def decode(data: bytes) -> NDArray[np.uint8]:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return decode_jpeg(encoded, ImageReadMode.RGB).permute(1, 2, 0).numpy()

    return decode


def simplejpeg() -> Decode:
    import simplejpeg as codec

    return codec.decode_jpeg


def imageio() -> Decode:
    import imageio.v3 as codec

    return lambda data: codec.imread(data, extension=".jpg", mode="RGB")


def scikit_image() -> Decode:
    from skimage.io import imread

    return lambda data: imread(io.BytesIO(data))


def kornia() -> Decode:
    from kornia_rs.io import decode_image_jpegturbo

    return lambda data: decode_image_jpegturbo(data, "rgb")


def resnets() -> Decode:
    """Decode as for previews and packed sets: upright by EXIF, checked for damage and size."""
    from resnets.data.decode.decode import decode_whole

    return lambda data: decode_whole(data, "image")


LIBRARIES: dict[str, Callable[[], Decode]] = {
    REFERENCE: pillow,
    "OpenCV": opencv,
    "torchvision.io": torchvision,
    "simplejpeg": simplejpeg,
    "imageio": imageio,
    "scikit-image": scikit_image,
    "kornia-rs": kornia,
    "resnets": resnets,
}


def load(files: list[bytes]) -> dict[str, Decode]:
    """Return the libraries that are installed and decode the first file as Pillow does."""
    decoders: dict[str, Decode] = {}
    for name, make in LIBRARIES.items():
        try:
            decode = make()
            pixels = decode(files[0])
        except Exception as error:
            print(f"skipped: {name}: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
            continue
        expected = decoders.get(REFERENCE, decode)(files[0]).astype(int)
        difference = np.abs(pixels.astype(int) - expected).mean()
        assert difference < 1, f"{name}: {difference:.1f} gray levels from {REFERENCE}"
        decoders[name] = decode
    return decoders


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--folder", type=Path, help="of JPEG files, at any depth")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if args.folder is None:
            write_images(folder, args.images, large=True)
        found = sorted(
            path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")
        )
        files = [path.read_bytes() for path in found[: args.images]]
        if not files:
            parser.error(f"--folder {folder}: no JPEG files")
        setup = f"{len(files)} images, {args.rounds} rounds; {describe(folder)}; CPU time"
    decoders = load(files)
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    for number in range(args.rounds + 1):  # the first warms up
        for name, decode in decoders.items():
            start = time.process_time()
            for data in files:
                decode(data)
            if number:
                seconds[name].append(time.process_time() - start)
    rows = [
        [
            name,
            round(statistics.median(len(files) / each for each in rounds)),
            format_ratio(seconds[REFERENCE], rounds),
        ]
        for name, rounds in seconds.items()
    ]
    report(args.record, ["", "images/s of one thread", "ratio"], rows, setup)


if __name__ == "__main__":
    main()

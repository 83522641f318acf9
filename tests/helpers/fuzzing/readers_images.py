"""Images: every format that is opened, through every decoder."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fuzzing.readers import Reader
from resnets.data.decode import decode, open_image

WIDTH, HEIGHT = 29, 23


def pixels(kind: str = "RGB", seed: int = 0) -> Image.Image:
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (6, 8, 3), np.uint8))
    return coarse.resize((WIDTH, HEIGHT)).convert(kind)


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _wide(kind: type) -> Image.Image:
    return Image.fromarray((np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH) * 90).astype(kind))


def _write(forms: dict[str, Callable[[], bytes]]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, make in forms.items():
            (folder / name).mkdir()
            (folder / name / f"image.{name.partition('-')[0]}").write_bytes(make())

    return write


def _frames() -> dict[str, Any]:
    return {"save_all": True, "append_images": [pixels(seed=1), pixels(seed=2)]}


def _read(root: Path) -> tuple[bytes, str]:
    path = next(root.iterdir())
    return path.read_bytes(), str(path)


def whole(root: Path) -> object:
    return decode.decode_whole(*_read(root))


def view(root: Path) -> object:
    data, name = _read(root)
    return decode.decode(data, decode.Crop(16, 3, decode.center_box(16, 18)), name)


def fitted(root: Path) -> object:
    return decode.decode_fitted(*_read(root), lambda width, height: (12, 15))


def header(root: Path) -> object:
    return decode.image_header(*_read(root))


JPEG: dict[str, Callable[[], bytes]] = {
    "jpg-baseline": lambda: _saved(pixels(), "JPEG", quality=80, exif=_exif()),
    "jpg-progressive": lambda: _saved(pixels(), "JPEG", progressive=True, icc_profile=b"p" * 200),
    "jpg-grey": lambda: _saved(pixels("L"), "JPEG", restart_marker_blocks=2),
    "jpg-cmyk": lambda: _saved(pixels("CMYK"), "JPEG", subsampling=0),
    "jpg-mpo": lambda: _saved(pixels(), "MPO", **_frames()),
}
PNG: dict[str, Callable[[], bytes]] = {
    "png-rgb": lambda: _saved(pixels(), "PNG", exif=_exif()),
    "png-grey": lambda: _saved(pixels("L"), "PNG"),
    "png-palette": lambda: _saved(pixels("P"), "PNG", transparency=3),
    "png-one-bit": lambda: _saved(pixels("1"), "PNG"),
    "png-wide": lambda: _saved(_wide(np.uint16), "PNG"),
    "png-alpha": lambda: _saved(pixels("RGBA"), "PNG"),
    "png-moving": lambda: _saved(pixels(), "PNG", **_frames()),
}
TIFF: dict[str, Callable[[], bytes]] = {
    **{
        f"tif-{name}": lambda name=name: _saved(pixels(), "TIFF", compression=name)
        for name in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg", "tiff_adobe_deflate")
    },
    "tif-fax": lambda: _saved(pixels("1"), "TIFF", compression="group4"),
    "tif-wide": lambda: _saved(_wide(np.uint16), "TIFF"),
    "tif-pages": lambda: _saved(pixels(), "TIFF", **_frames()),
    "tif-cmyk": lambda: _saved(pixels("CMYK"), "TIFF", compression="tiff_lzw"),
}
OTHERS: dict[str, Callable[[], bytes]] = {
    "gif-still": lambda: _saved(pixels("P"), "GIF", transparency=2),
    "gif-moving": lambda: _saved(pixels(), "GIF", **_frames()),
    "webp-lossy": lambda: _saved(pixels(), "WEBP", exif=_exif()),
    "webp-lossless": lambda: _saved(pixels("RGBA"), "WEBP", lossless=True),
    "webp-moving": lambda: _saved(pixels(), "WEBP", **_frames()),
    "bmp-rgb": lambda: _saved(pixels(), "BMP"),
    "bmp-palette": lambda: _saved(pixels("P"), "BMP"),
    "ppm-rgb": lambda: _saved(pixels(), "PPM"),
    "pgm-grey": lambda: _saved(pixels("L"), "PPM"),
    "pbm-bits": lambda: _saved(pixels("1"), "PPM"),
    "pgm-wide": lambda: _saved(_wide(np.uint16), "PPM"),
    "ppm-text": lambda: b"P3 4 3 255\n" + b" ".join(b"%d" % each for each in range(36)) + b"\n",
    "jp2-boxes": lambda: _saved(pixels(), "JPEG2000"),
    "jp2-stream": lambda: _saved(pixels("L"), "JPEG2000", no_jp2=True, irreversible=True),
}
if "AVIF" in open_image.FORMATS:
    OTHERS |= {
        "avif-still": lambda: _saved(pixels(), "AVIF", exif=_exif()),
        "avif-moving": lambda: _saved(pixels(), "AVIF", **_frames()),
    }


def _heic() -> bytes:
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)
    return _saved(pixels(), "HEIF")


if open_image.heif_available():
    OTHERS["heic-still"] = _heic

FLOATS: dict[str, Callable[[], bytes]] = {
    "tif-float": lambda: _saved(_wide(np.float32), "TIFF"),
    "pfm-float": lambda: _saved(_wide(np.float32), "PPM"),
    "tif-wide": lambda: _saved(_wide(np.int32), "TIFF"),
    "png-wide": lambda: _saved(_wide(np.uint16), "PNG"),
}
LEVELS = (0.0, 5e4)


def whole_levels(root: Path) -> object:
    return decode.decode_whole(*_read(root), LEVELS)


def view_levels(root: Path) -> object:
    data, name = _read(root)
    box = decode.center_box(16, 18)
    return decode.decode(data, decode.Crop(16, 3, box, levels=LEVELS), name)


WAYS = (whole, view, fitted, header)
READERS = (
    Reader("jpeg", _write(JPEG), WAYS, share=70),
    Reader("png", _write(PNG), WAYS, share=60),
    Reader("tiff", _write(TIFF), WAYS, share=60),
    Reader("images of numbers", _write(FLOATS), (whole_levels, view_levels), share=20),
    Reader("other images", _write(OTHERS), WAYS, share=80),
)

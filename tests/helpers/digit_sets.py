"""Real images for the tests of sources: scikit-learn's digits, as encoded files."""

import io

import numpy as np
from PIL import Image

WNIDS = ("n01440764", "n02102040", "n02979186", "n03000684")  # four of Imagenette's ten


def digit_files(count: int, classes: int = 4, kind: str = "PNG") -> list[tuple[bytes, int]]:
    """`count` encoded images of 16x16 px of each of the first `classes` digits, with the digit.

    They come mixed, in the order that the set has them.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    taken = np.zeros(10, int)
    files = []
    for pixels, digit in zip(digits.images, digits.target.tolist(), strict=True):
        if digit < classes and taken[digit] < count:
            taken[digit] += 1
            gray = Image.fromarray((pixels * 255 / 16).astype(np.uint8)).resize((16, 16))
            stream = io.BytesIO()
            gray.convert("RGB").save(stream, kind)
            files.append((stream.getvalue(), digit))
    return files

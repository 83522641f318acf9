"""Random calls of the five C kernels, compiled with address and undefined-behaviour sanitizers.

    python tests/helpers/fuzz_native.py --calls 10000 [--kernel norm] [--seed 0]

starts itself again with the sanitizers' runtime preloaded and a compiler command that has their
flags, so that the product's own code builds, loads and calls the kernels. Whatever the sanitizers
find ends the process with their report and exit code 1. Arrays come from malloc, which the
address sanitizer surrounds with red zones.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile

FLAGS = (
    "-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all"
    " -fno-omit-frame-pointer -g"
)
KERNELS = ("norm", "flip", "resize", "jpeg", "conv_weights")


def sanitized(arguments: list[str], cache: str) -> subprocess.CompletedProcess[str]:
    """This script, run again with sanitized kernels."""
    found = [
        subprocess.run(
            ["gcc", f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("asan", "ubsan", "stdc++")
    ]
    environment = {
        **os.environ,
        "CC": f"gcc {FLAGS}",
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python frees late
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "RESNETS_CACHE": cache,
        "OMP_NUM_THREADS": "2",
        "SANITIZED": "1",
    }
    return subprocess.run(
        [sys.executable, __file__, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def fuzz_norm(random) -> None:
    import torch
    from torch import nn

    from resnets.models.norm import BatchNormAct2d, convert_batch_norms, use_cpu_kernels
    from resnets.ops.norm_act import second_use

    torch.set_num_threads(random.integers(1, 4))
    channels = int(random.choice([1, 2, 4, 8, 16, 32, 48, 64, 80, 7, 24]))
    images, height, width = (int(random.integers(1, 9)) for _ in range(3))
    if random.random() < 0.1:
        images, height, width = 40, 33, 17
    norm = nn.Sequential(BatchNormAct2d(channels)).train()
    if images % 2 == 0 and random.random() < 0.3:
        convert_batch_norms(norm, images // 2, sync=False)
    use_cpu_kernels(norm)
    kind = torch.bfloat16 if random.random() < 0.5 else torch.float32
    scale = float(10.0 ** random.integers(-20, 20))
    x = (torch.randn(images, channels, height, width) * scale).to(kind)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    shortcut = torch.randn_like(x).requires_grad_() if random.random() < 0.5 else None
    try:
        y = norm[0](x, shortcut)
    except ValueError:  # one value of each channel
        return
    total = y.float().sum()
    if random.random() < 0.5:
        total = total + second_use(y).float().square().sum()
    total.backward()


def fuzz_flip(random) -> None:
    import torch

    from resnets.ops.flip import flip_and_normalize

    torch.set_num_threads(random.integers(1, 4))
    count, batch = (int(random.integers(1, 20)) for _ in range(2))
    height, width = (int(random.integers(1, 40)) for _ in range(2))
    planes = int(random.choice([1, 2, 3, 4]))
    flip_and_normalize(
        torch.randint(256, (count, height, width, planes), dtype=torch.uint8),
        torch.randint(count, (batch,)),
        random.random(batch) < 0.5,
        torch.randn(2, height if random.random() < 0.5 else 1, width, planes),
        torch.randn(width, planes),
        torch.empty(batch, height, width, planes),
    )


def random_box(random, width: int, height: int) -> tuple[float, float, float, float]:
    """Mostly inside; sometimes beyond the edges, empty, huge or not a number."""
    kind = random.random()
    if kind < 0.7:
        left, right = sorted(random.uniform(0, width, 2).tolist())
        top, bottom = sorted(random.uniform(0, height, 2).tolist())
        return left, top, right, bottom
    if kind < 0.9:
        return tuple((random.normal(size=4) * 3 * max(width, height)).tolist())
    odd = [0.0, -1.0, 1e30, -1e30, 1e300, float("nan"), float("inf"), float("-inf"), 1e-30]
    return tuple(random.choice(odd, 4).tolist())


def fuzz_resize(random) -> None:
    import numpy as np

    from resnets.ops.resize import resize_box

    width, height = (int(random.integers(1, 120)) for _ in range(2))
    planes = int(random.choice([1, 3]))
    pixels = random.integers(0, 256, (height, width, planes), dtype=np.uint8)
    if random.random() < 0.3:  # rows with a gap between them
        pixels = pixels[:, : max(1, width // 2)]
    box = random_box(random, pixels.shape[1], height)
    size = int(random.integers(1, 70))
    resize_box(pixels, box, size, str(random.choice(["bilinear", "bicubic"])))


def fuzz_jpeg(random) -> None:
    import numpy as np
    from PIL import Image

    from resnets.data.decode.jpeg import decode_box, read_header

    width, height = (int(random.integers(1, 150)) for _ in range(2))
    mode = str(random.choice(["RGB", "L"]))
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    image = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8), mode)
    file = io.BytesIO()
    image.save(
        file,
        "JPEG",
        quality=int(random.integers(1, 101)),
        progressive=bool(random.random() < 0.4),
        subsampling=int(random.integers(0, 3)),
        restart_marker_blocks=int(random.integers(0, 4)),
        exif=random.bytes(int(random.integers(0, 40))),
    )
    data = bytearray(file.getvalue())
    for _ in range(int(random.integers(0, 6))):  # damage
        place = int(random.integers(len(data)))
        kind = random.random()
        if kind < 0.6:
            data[place] = int(random.integers(256))
        elif kind < 0.8:
            del data[place : place + int(random.integers(1, 200))]
        else:
            data[place:place] = data[: int(random.integers(0, 300))]
        if not data:
            return
    header = read_header(bytes(data))
    if header is None or header.width * header.height > 4_000_000:
        return
    size = int(random.integers(1, 70))
    denominator = int(random.choice([1, 2, 4, 8]))
    planes = int(random.choice([1, 3]))
    box = random_box(random, header.width, header.height)
    decode_box(bytes(data), header, box, denominator, (size, size, planes), "bilinear", 100)


def fuzz_conv_weights(random) -> None:
    import torch

    from resnets.ops.conv_weight_grad import weight_gradient

    torch.set_num_threads(random.integers(1, 4))
    images, height, width = (int(random.integers(1, 9)) for _ in range(3))
    inside, outside = (16 * int(random.integers(1, 5)) for _ in range(2))
    kernel = int(random.choice([1, 3]))
    stride, padding = int(random.integers(1, 3)), kernel // 2
    rows = (height + 2 * padding - kernel) // stride + 1
    columns = (width + 2 * padding - kernel) // stride + 1
    last = torch.channels_last
    x = torch.randn(images, inside, height, width).bfloat16().contiguous(memory_format=last)
    dy = torch.randn(images, outside, rows, columns).bfloat16().contiguous(memory_format=last)
    weight = torch.empty(outside, inside, kernel, kernel)
    weight_gradient(x, dy, weight, stride, padding)


def fuzz(kernel: str, calls: int, seed: int) -> None:
    """`calls` random calls of one kernel in this process."""
    import numpy as np

    from resnets.ops import compiler, conv_weight_grad

    name = conv_weight_grad.kernel_name() if kernel == "conv_weights" else kernel
    if name is None:
        print(f"{kernel}: not run, this processor cannot multiply bfloat16")
        return
    found = compiler.load_kernel(name)
    assert found.library is not None, found.reason
    for number in range(calls):
        globals()[f"fuzz_{kernel}"](np.random.default_rng((seed, number)))
    print(f"{kernel}: {calls:,} calls, nothing found")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--kernel", choices=KERNELS, action="append")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if os.environ.get("SANITIZED") != "1":
        if shutil.which("gcc") is None:
            print("needs gcc with its sanitizers")
            return 2
        with tempfile.TemporaryDirectory() as cache:
            done = sanitized(sys.argv[1:], cache)
        print(done.stdout + done.stderr[-8000:], end="")
        return done.returncode
    for kernel in options.kernel or KERNELS:
        fuzz(kernel, options.calls, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Short runs of several processes on real digits, for tests of their failures."""

import os
import subprocess
import sys
from pathlib import Path

import forked

HERE = Path(__file__).parent
STEPS = 16
TRAIN = f"""
    train digits --model cifar-resnet8 --iterations {STEPS} --set checkpoint_every=3it
    --set eval.every=12it --set log_every=2it --set ema_decay=0.9 --set norm_batch=16
    --set batch_size=64 --device cpu --set precision=float32 --set optim.lr=0.01
""".split()
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(*words: str, fault: str = "", **environment: str) -> subprocess.Popen[str]:
    """`resnets words ...`, whose workers meet `fault` (see helpers/faults/sitecustomize.py)."""
    return forked.Popen(
        [sys.executable, "-m", "resnets", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT
        | environment
        | {"FAULT": fault, "PYTHONPATH": str(HERE / "faults"), "PYTHONUNBUFFERED": "1"},
    )


def finish(*words: str, fault: str = "", **environment: str) -> tuple[int, str, str]:
    process = start(*words, fault=fault, **environment)
    out, err = process.communicate(timeout=900)
    return process.returncode, out, err

"""How long a checkpoint blocks the training loop: ResNet-50 with momentum and averaged weights.

    python benchmarks/checkpoint.py [FOLDER]

A save blocks the loop while tensors are copied; a thread writes the file. Compared with a save that
waits for the file, as the last one of a run does.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from resnets import create_model
from resnets.recipes import recipe
from resnets.train.saver import Saver
from resnets.train.state import new_state

SAVES = 6


def main(folder: str | None) -> None:
    torch.manual_seed(0)
    run_recipe = dataclasses.replace(recipe("imagenet-90", None), ema_decay=0.99)
    model = create_model("resnet50").to(memory_format=torch.channels_last).train()
    state = new_state(model, run_recipe, 1000)
    images, labels = torch.randn(8, 3, 64, 64), torch.randint(0, 1000, (8,))

    def step() -> None:
        cross_entropy(model(images), labels).backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.ema.update_parameters(model)
        state.step += 1

    step()
    with tempfile.TemporaryDirectory(dir=folder) as out:
        saver = Saver(Path(out), run_recipe, {"classes": [], "preprocess": {}}, None)
        for wait in (True, False):
            stalls = []
            for _ in range(SAVES):
                step()
                start = time.perf_counter()
                saver.save_last(state, final=wait)
                stalls.append(1000 * (time.perf_counter() - start))
                saver.wait()
            middle, worst = statistics.median(stalls), max(stalls)
            name = "waits for file" if wait else "in the background"
            print(f"{name:>17}: blocks the loop for {middle:,.0f} ms (at most {worst:,.0f})")
        size = (Path(out) / "checkpoints" / "last.safetensors").stat().st_size
        print(f"{size / 1e6:,.0f} MB per file, {torch.get_num_threads()} threads")
        saver.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", help="where files are written; default: temporary")
    main(parser.parse_args().folder)

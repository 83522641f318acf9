"""How long a checkpoint blocks the training loop: ResNet-50 with momentum and averaged weights.

    python benchmarks/checkpoint.py [FOLDER] [--label "other jobs stopped"] [--record checkpoint]

A save blocks the loop while tensors are copied; a thread writes the file. Compared with a save that
waits for the file, as the last one of a run does. docs/results/checkpoint.json has
rows of two runs, on an idle machine and a busy one; a run records its own row, named by --label.
"""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import torch
from recording import make_parser, report
from torch.nn.functional import cross_entropy

from resnets import create_model
from resnets.recipes import recipe
from resnets.train.saver import Saver
from resnets.train.state import new_state

SAVES = 6


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder", nargs="?", help="where files are written; default: temporary")
    parser.add_argument("--label", default="this machine", help="the first cell of the row")
    args = parser.parse_args()
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
    with tempfile.TemporaryDirectory(dir=args.folder) as out:
        saver = Saver(Path(out), run_recipe, {"classes": [], "preprocess": {}}, None)
        blocked = []
        for wait in (True, False):
            stalls = []
            for _ in range(SAVES):
                step()
                start = time.perf_counter()
                saver.save_last(state, final=wait)
                stalls.append(1000 * (time.perf_counter() - start))
                saver.wait()
            blocked.append(f"{statistics.median(stalls):,.0f} ({max(stalls):,.0f})")
        size = (Path(out) / "checkpoints" / "last.safetensors").stat().st_size
        saver.close()
    what = "ResNet-50 with momentum and averaged weights"
    what += f", {size / 1e6:,.0f} MB: median of {SAVES} (most), ms"
    columns = [what, "pause of the loop", "write of the file"]
    report(args.record, columns, [[args.label, *reversed(blocked)]], f"torch {torch.__version__}")


if __name__ == "__main__":
    main()

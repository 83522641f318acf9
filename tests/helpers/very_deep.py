"""Networks of a thousand and of ten thousand layers, trained for a few steps.

`python tests/helpers/very_deep.py [LAYERS ...]` prints losses, processor time and peak memory of
each form, in a process of its own (1004 and 10004 layers by default).
"""

import multiprocessing
import resource
import sys
import time

import torch
import torch.nn.functional as F

from resnets.models import build, catalog

# Fields of the model, and the learning rate: a larger one raises the loss of `preact` at once.
FORMS = {
    "batch norm, pre-activation": ({"block": "preact-basic"}, 0.005),
    "no norm, SkipInit": ({"norm": "none", "branch_scale": "skipinit"}, 0.02),
    "no norm, Fixup": ({"norm": "none", "branch_scale": "fixup"}, 0.02),
}
WIDTHS, STEPS = (4, 8, 16), 3


def train_deep(
    form: str, layers: int, steps: int = STEPS, widths: tuple[int, ...] = WIDTHS
) -> list[float]:
    """Losses of a few steps of SGD on eight fixed images, with recomputed activations."""
    torch.manual_seed(0)
    fields, lr = FORMS[form]
    spec = catalog.spec(f"cifar-resnet{layers}", widths=widths, stem_width=widths[0], **fields)
    model = build(spec).train()
    model.recompute = True
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(images), torch.arange(8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def measure(form: str, layers: int) -> None:
    started = time.process_time()
    losses = train_deep(form, layers)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    said = "  ".join(f"{loss:.3f}" for loss in losses)
    print(f"{form:28} {layers:>6,} layers  losses {said}  {seconds:.0f} s  {peak:,.0f} MiB")


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    for layers in map(int, sys.argv[1:] or ("1004", "10004")):
        for form in FORMS:
            process = context.Process(target=measure, args=(form, layers))
            process.start()
            process.join()

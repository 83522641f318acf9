"""Measures and draws tune.png: a search against the recipe's defaults on photographs.

    python docs/images/tune.py --data imagenette

Imagenette at 40 px, 100 training images of each class (three tenths are validation) and 50
test images. The search has six trials of three epochs; both recipes then train for ten epochs,
and the default one for 37 as well, about as long as search and training together.
"""

from __future__ import annotations

from guide_runs import (
    IMAGES,
    SEEDS,
    SMALL,
    arguments,
    make_once,
    mean_and_spread,
    shrink_splits,
    train,
)
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from result_tables import record

import resnets
from resnets.config import Recipe, replace_fields
from resnets.recipes import recipe as named_recipe
from resnets.report.figure_style import SERIES, figure_style
from resnets.study.tune import TuneResult
from resnets.utils.files.json import read_object

TRAINED, TESTED = 100, 50  # images of each class
TRIALS, BUDGET = 6, "3ep"
COMMAND = (
    "python docs/images/tune.py: resnets tune scratch --data DATA --model cifar-resnet8 --set"
    " data.size=32 --set data.resize=36 --set ema_decay=0 --set data.val_fraction=0.3"
    " --trials 6 --budget 3ep, then resnets"
    " train RECIPE --epochs EPOCHS --seed SEED"
)


def draw(found: TuneResult, default: Recipe) -> None:
    """Draw the range test, and the trials by rate and weight decay."""
    with figure_style():
        plot = Figure(figsize=(8.4, 3.3))
        left, right = plot.subplots(1, 2)
        stored = read_object(found.folder / "range.json")
        left.plot(stored["rates"], stored["losses"], color=SERIES[3])
        lowest = stored["rates"][stored["losses"].index(min(stored["losses"]))]
        left.axvline(lowest / 10, ls="--", color=SERIES[0], label="a tenth of the lowest")
        left.set(xscale="log", title="range test", xlabel="learning rate", ylabel="training loss")
        left.legend(loc="lower left", fontsize=8)
        rates = [each.fields["optim.lr"] for each in found.trials]
        decays = [each.fields["optim.weight_decay"] for each in found.trials]
        errors = [each.error for each in found.trials]
        points = right.scatter(rates, decays, c=errors, cmap="viridis_r", s=60, zorder=3)
        right.plot(
            default.optim.lr, default.optim.weight_decay, "x", color=SERIES[0], ms=9, mew=2,
            label="recipe's default",
        )  # fmt: skip
        best = (found.best.fields[f"optim.{name}"] for name in ("lr", "weight_decay"))
        right.plot(*best, "o", mfc="none", color=SERIES[3], ms=13, mew=1.5, label="best trial")
        right.set(
            xscale="log", yscale="log", title="trials", xlabel="learning rate",
            ylabel="weight decay",
        )  # fmt: skip
        right.xaxis.set_minor_formatter(NullFormatter())
        right.legend(fontsize=8)
        plot.colorbar(points, ax=right, label="validation error (%)")
        plot.savefig(IMAGES / "tune.png", dpi=120)


def main() -> None:
    """Search, train what is left, and write table and figure."""
    options = arguments(__doc__)
    data = make_once(
        options.out / "photographs",
        lambda folder: shrink_splits(options.data, folder, TRAINED, TESTED),
    )
    fields = {name: value for name, value in SMALL.items() if name != "model"}
    fields["data.val_fraction"] = 0.3
    base = replace_fields(
        named_recipe("scratch", SMALL["model"]), {"data.source": str(data), **fields}
    )
    found = resnets.tune(base, trials=TRIALS, budget=BUDGET, out=options.out / "tune")
    arms = {
        "recipe's defaults, 10 epochs": (base, 10),
        "tuned, 10 epochs (37 with the search)": (found.recipe, 10),
        "recipe's defaults, 37 epochs": (base, 37),
    }
    rows: list[list[str | float | None]] = []
    for number, (title, (recipe, epochs)) in enumerate(arms.items()):
        runs: list[resnets.Run] = [
            train(recipe, options.out / f"tune-{number}-{seed}", epochs=epochs, seed=seed)
            for seed in SEEDS
        ]
        tests = [run.result["test"]["top1_error"] for run in runs]
        values = (recipe.optim.lr, recipe.optim.weight_decay)
        rows.append([title, *(f"{value:.2g}" for value in values), mean_and_spread(tests)])
    columns = ["recipe", "learning rate", "weight decay", "test error"]
    record("tune", COMMAND, columns, rows)
    draw(found, base)


if __name__ == "__main__":
    main()

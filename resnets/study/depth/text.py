"""The words of the depth study's report, for a reader who has not read the paper."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from resnets.config import Recipe
from resnets.study import paper
from resnets.study.depth.summary import WORD, NetSummary
from resnets.study.depth.verdict import MARGIN, Difference, Verdict, reached_by
from resnets.study.figures import KINDS
from resnets.study.grid.cells import Cell, Grid
from resnets.study.page import Finding, Tone, minus_signs
from resnets.study.protocol import describe_training, duration

QUESTION = """
A deeper net should never train worse than a shallower one: it could copy the shallow net and let \
every added layer pass its input on unchanged. Yet past some depth, plain stacks of convolutions \
do train worse. This is degradation. It is not overfitting, which leaves the training error low \
and lifts only the error on new pictures; here the training error itself rises, so the figure to \
watch is the training error.

A residual net adds a shortcut around every two or three layers: where a plain block computes \
y = F(x), a residual block computes y = F(x) + x. To pass its input on, it only has to drive F to \
zero, which is far easier than to learn the identity with a stack of nonlinear layers. The claim \
under test (He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016): \
plain nets degrade with depth, residual nets do not.
"""


SHORTCUTS = """
A shortcut adds a block's input to its output, which needs both to have one shape. Where the \
shape changes, between stages, there are choices. Option A subsamples the input and fills the new \
channels with zeros: no parameters. Option B projects it with a 1x1 convolution there, and is the \
identity elsewhere. Option C projects on every shortcut. A plain net has no shortcuts at all.

The paper (section 4.1, Table 3) finds all three far better than the plain net, B slightly better \
than A, and C marginally better than B, which it puts down to the added parameters: projections \
are not what cures degradation.
"""


def title(grid: Grid, cells: Sequence[Cell]) -> str:
    """The page's title, with the set's name once a run knows it."""
    data = next((cell.result["data"] for cell in cells if cell.result), grid.data)
    if grid.study == "shortcuts":
        return f"Which shortcuts? Options A, B and C on {data}"
    return f"Do deeper nets train better? A depth study on {data}"


def lead(verdict: Verdict) -> str:
    """The verdict: its first sentence, then the numbers it rests on."""
    answer, _, numbers = verdict.statement.partition(". ")
    return minus_signs(f"{answer.rstrip('.')}.\n\n{numbers}")


def shortcuts_lead(nets: Sequence[NetSummary]) -> str:
    """Errors by shortcut option, lowest first."""
    word = WORD[nets[0].held_out]
    measured = [
        (errors.mean, net, errors.text)
        for net in nets
        if (errors := net.errors(net.held_out, "last")).mean is not None
    ]
    if not measured:
        return "No run has finished yet."
    ranked = sorted(measured, key=lambda each: each[0] or 0.0)
    listed = ", ".join(f"{net.net} {text}%" for _, net, text in ranked)
    reached = [found for _, net, _ in measured if (found := reached_by(net.cells)) is not None]
    best = min(reached, key=lambda each: each.error, default=None)
    answer = (
        f"Not converged: {best.text}; no conclusion about shortcuts"
        if best is not None and not best.converged
        else f"Lowest {word} error: {ranked[0][1].net}"
    )
    return (
        f"{answer}.\n\nFinal {word} errors: {listed}. Differences within the spread between seeds "
        "say nothing."
    )


def findings(verdict: Verdict) -> tuple[Finding, ...]:
    """The verdict's differences as the tiles at the top of the page."""
    tiles = []
    for kind, found in (("Plain", verdict.plain), ("Residual", verdict.residual)):
        if found is None:
            continue
        label = f"{kind} nets, {found.first.depth} → {found.second.depth} layers"
        if not found.better.converged:
            tiles.append(_tile(label, found, "Not converged, so no conclusion", "open"))
        elif found.rises is None:
            tiles.append(_tile(label, found, "Not certain", "open"))
        elif found.rises:
            tiles.append(_tile(label, found, "Deeper trains worse", "bad"))
        else:
            claim = f"Deeper trains no worse, to within {MARGIN:g} point"
            tiles.append(_tile(label, found, claim, "good"))
    twins = verdict.twins
    if twins is not None:
        label = f"Plain → residual, both {twins.first.depth} layers"
        if not twins.better.converged:
            tiles.append(_tile(label, twins, "Not converged, so no conclusion", "open"))
        elif twins.falls:
            tiles.append(_tile(label, twins, "The shortcuts help", "good"))
        elif twins.rises:
            tiles.append(_tile(label, twins, "The shortcuts hurt", "bad"))
        else:
            tiles.append(_tile(label, twins, "No certain difference", "open"))
    return tuple(tiles)


def _tile(label: str, found: Difference, claim: str, tone: Tone) -> Finding:
    first, second = map(statistics.fmean, (found.first_errors, found.second_errors))
    return Finding(
        label=label,
        value=f"{first:.2f}% → {second:.2f}%",
        detail=minus_signs(
            f"{claim}: training error {found.points:+.2f} points{_interval(found)}."
        ),
        tone=tone,
    )


def _interval(found: Difference) -> str:
    if found.interval is None:
        return "; one run of a net has no spread, so chance cannot be ruled out"
    low, high = found.interval
    return f" (90% interval {low:+.2f} to {high:+.2f})"


def what_curves_show(nets: Sequence[NetSummary]) -> str:
    """Caption of the error curves: how to read them, and what each kind of net does."""
    word = WORD[nets[0].held_out]
    many = len({net.depth for net in nets}) > 1
    colors = "colours run from shallow to deep" if many else "each net has its colour"
    seen = " ".join(filter(None, (_what_kind_does(nets, kind) for kind in KINDS)))
    return (
        f"Error while training. Dashed lines are the training error, solid lines the {word} "
        f"error; {colors}. Lines are means over seeds, bands span the seeds. The first tenth of "
        f"the run, where every net is near chance, may be cut off. {seen}"
    )


def what_depth_shows(nets: Sequence[NetSummary]) -> str:
    """Caption of the final errors against depth."""
    return (
        "Final error against depth. Each dot is one seed, lines join the means. A line that rises "
        "to the right in the left panel is degradation where the runs are long enough: more "
        "layers, and a worse fit to the very images the network was trained on. "
        f"{_twins(nets)}"
    ).strip()


def _what_kind_does(nets: Sequence[NetSummary], kind: str) -> str:
    """One sentence on the final training errors of `kind`, shallowest against deepest."""
    mine = [net for net in nets if net.kind == kind]
    measured = [(net, net.errors("train", "last").mean) for net in mine]
    ends = [(net, error) for net, error in measured if error is not None]
    if not ends:
        return f"No {kind} net has finished." if mine else ""
    (shallow, low), (deep, high) = ends[0], ends[-1]
    if shallow.depth == deep.depth:
        listed = ", ".join(f"{net.net} at {error:.2f}%" for net, error in ends)
        return f"Training errors end thus: {listed}."
    than = "above" if high > low else "below" if high < low else "level with"
    return (
        f"The {kind} net of {deep.depth} layers ends at {high:.2f}% training error, {than} the "
        f"{low:.2f}% of its {shallow.depth}-layer relative."
    )


def _twins(nets: Sequence[NetSummary]) -> str:
    """One sentence on the deepest depth that both kinds have."""
    means = {
        (net.kind, net.depth): error
        for net in nets
        if (error := net.errors("train", "last").mean) is not None
    }
    shared = [depth for kind, depth in means if kind == "plain" and ("residual", depth) in means]
    if not shared:
        return ""
    depth = max(shared)
    return (
        f"At {depth} layers the plain net ends at {means['plain', depth]:.2f}% training error, its "
        f"residual twin at {means['residual', depth]:.2f}%."
    )


def ends_of_lines(nets: Sequence[NetSummary]) -> str:
    """Where each net's training error ends, for those who cannot see the lines."""
    ends = [(net.net, net.errors("train", "last").text) for net in nets]
    listed = ", ".join(f"{name} {text}%" for name, text in ends if text)
    return f"Final training error: {listed}." if listed else "No run has finished."


def table_caption(recipe: Recipe | None) -> str:
    """What the columns of the table of errors mean, and how far the paper's compare."""
    text = (
        "Errors in percent, mean ± standard deviation over the finished seeds. Last: the last row "
        "of each run; best: its lowest row at any time, which on held-out pictures is a look "
        "ahead that decides nothing."
    )
    data = paper.dataset(recipe.data.source) if recipe else None
    if recipe is None or data is None:
        return text
    return (
        f"{text} Paper: {paper.PROTOCOL[data]}. The runs here last {duration(recipe.duration)} at "
        f"batch {recipe.batch_size}, so compare them with each other first, with the paper second."
    )


def warning(cells: Sequence[Cell]) -> str:
    """One line on what is missing; empty for a whole grid."""
    counts = {
        status: sum(cell.status == status for cell in cells)
        for status in ("failed", "running", "missing")
    }
    if not any(counts.values()):
        return ""
    words = {"failed": "failed", "running": "unfinished", "missing": "not started"}
    parts = [f"{count} {words[status]}" for status, count in counts.items() if count]
    short = sum(counts.values())
    return (
        f"{short} of {len(cells)} {'run' if len(cells) == 1 else 'runs'} did not reach "
        f"{'its' if short == 1 else 'their'} end ({', '.join(parts)}). "
        "All means are over the finished ones; the section Gaps lists the others with the reason."
    )


def protocol(recipe: Recipe | None, nets: Sequence[NetSummary], departures: Sequence[str]) -> str:
    """How the numbers were got, in full."""
    if recipe is None:
        return "No run has started yet."
    held_out = nets[0].held_out
    cells = [cell for net in nets for cell in net.cells]
    seeds = sorted({cell.seed for cell in cells})
    results = [cell.result for cell in cells if cell.result and held_out in cell.result]
    measured = sorted({result[held_out]["protocol"] for result in results})
    same = (
        "Every net is trained by the same recipe; only net and seed differ."
        if not departures
        else "All nets share one recipe, with these exceptions: " + "; ".join(departures) + "."
    )
    return "\n\n".join(
        filter(
            None,
            (
                f"{same} {describe_training(recipe)}",
                f"Seeds: {', '.join(map(str, seeds))}. A seed sets initial weights, the order of "
                "the pictures and their augmentation.",
                "The training error is a running mean over the batches since the row before, on "
                "images as augmented and with weights as they move. "
                f"The {WORD[held_out]} error is measured every {_each(recipe.eval.every)} with "
                "the weights of that moment, one view a picture, each picture counted once; it "
                "decides nothing.",
                f"Measured on: {'; '.join(measured)}." if measured else "",
                "Every number comes from a row of a run's metrics.jsonl. The CSV files beside this "
                "page name run folder and step for each of them.",
            ),
        )
    )


def _each(text: str) -> str:
    """ "1ep" as "epoch", "500it" as "500 iterations": what follows "every"."""
    return duration(text).removeprefix("1 ")

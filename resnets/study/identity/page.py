"""The report on one residual net: how near the identity its blocks are, and which it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot

from resnets.study.depth.deepen import Proof
from resnets.study.figures import NARROW, SERIES, SOFT, WIDE, house_style, whole_numbers
from resnets.study.identity.identity import DRAWS, BlockFigures, IdentityFigures, Lesion
from resnets.study.page import Figure, Finding, Numbers, Page, Section, Table, show

NOT_TRAINED = (
    "These figures describe the network as it is; they say nothing about what training makes of it."
)
COLORS = {"identity": SERIES[4], "zero-padded": SERIES[0], "projection": SERIES[0]}


def identity_page(
    figures: IdentityFigures,
    *,
    measured: str,
    commands: tuple[str, ...],
    environment: Mapping[str, Any],
    caution: str = "",
) -> Page:
    """The report on `figures`; `measured` says on which images and with which weights.

    With a `caution` the page says first that it describes a network that has not been trained.
    """
    return Page(
        title=f"Blocks near the identity: {figures.label}",
        lead=f"{_lead(figures)} {NOT_TRAINED}" if caution else _lead(figures),
        caution=caution,
        findings=_findings(figures),
        sections=(
            _blocks_section(figures),
            _lesions_section(figures),
            _proof_section(figures),
        ),
        protocol=(
            f"{measured}. Norms are L2, of one picture's F(x) and of what its shortcut adds to it "
            "(x itself for an identity); the ratio is a mean over pictures. Errors are top-1, on "
            "the same pictures, with stored batch norm statistics: nothing is trained again after "
            "a lesion. A dropped block keeps its shortcut and loses its branch; blocks are swapped "
            "with their weights and statistics within a stage, where shapes agree. Several at a "
            f"time: {DRAWS} random draws for each number."
        ),
        commands=commands,
        environment=environment,
    )


def _lead(figures: IdentityFigures) -> str:
    whole = [block for block in figures.blocks if block.shortcut == "identity"]
    if not whole:
        return "Every shortcut of this net is a projection: none of its blocks can be an identity."
    ratio = 100 * median(block.ratio for block in whole)
    rise = median(block.error_without for block in whole) - figures.error
    change = f"{ratio:.0f}%" if ratio >= 1 else "less than 1%"
    if len(whole) == 1:
        return (
            f"The one block with an identity shortcut changes its input by {change} of its norm. "
            f"Dropping it raises the error, {figures.error:.2f}%, by {show(rise)} points."
        )
    return (
        f"Half of the {len(whole)} blocks with an identity shortcut change their input by less "
        f"than {max(1.0, ratio):.0f}% of its norm. Dropping one of them raises the error, "
        f"{figures.error:.2f}%, by {show(rise)} points in the median."
    )


def _findings(figures: IdentityFigures) -> tuple[Finding, ...]:
    findings = []
    whole = [block for block in figures.blocks if block.shortcut == "identity"]
    if whole:
        ratios = [block.ratio for block in whole]
        findings.append(
            Finding(
                label="‖F(x)‖ / ‖x‖, median block",
                value=f"{median(ratios):.2f}",
                detail=f"from {min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} "
                f"block{'' if len(ratios) == 1 else 's'} with an identity shortcut",
            )
        )
    worst = max(figures.blocks, key=lambda block: block.error_without)
    findings.append(
        Finding(
            label="the block it needs most",
            value=f"{figures.error:.2f}% → {worst.error_without:.2f}%",
            detail=f"error without the branch of {worst.name} ({worst.shortcut} shortcut)",
        )
    )
    if figures.proof is not None:
        findings.append(_proof_finding(figures.proof))
    return tuple(findings)


def _proof_finding(proof: Proof) -> Finding:
    exact = proof.eval_difference == 0 and proof.train_difference == 0
    return Finding(
        label=f"{proof.shallow_layers} layers deepened to {proof.deep_layers}",
        value="equal bit for bit" if exact else f"differs by {proof.eval_difference:.2g}",
        detail=f"logits on {proof.pictures} pictures, blocks of null weights added, in evaluation "
        "and in training mode",
        tone="good" if exact else "bad",
    )


def _blocks_section(figures: IdentityFigures) -> Section:
    rows = tuple(
        (block.name, block.shortcut, block.ratio, block.error_without,
         block.error_without - figures.error)
        for block in figures.blocks
    )  # fmt: skip
    columns = ("block", "shortcut", "‖F(x)‖ / ‖x‖", "error without it (%)", "rise (points)")
    names = ("block", "shortcut", "ratio", "error_without", "rise")
    return Section(
        "Block by block",
        "If the best mapping of a block is near the identity, learning is a matter of small "
        "corrections, and F(x) should be small next to x. If blocks make such corrections, no "
        "single one should be indispensable, unless it changes the shape of the signal too, as the "
        "first block of a stage does where its shortcut is no identity (set off in colour).",
        figures=(
            Figure(
                name="blocks",
                figure=_draw_blocks(figures, narrow=False),
                narrow=_draw_blocks(figures, narrow=True),
                caption="First: size of each block's correction, the norm of F(x) over that of "
                "what the shortcut adds. Second: error with one block dropped (bars, from the "
                "intact net's line up), or exchanged with the next of its kind (crosses).",
                alt="Bars of relative norm and of error without each block",
                numbers=Numbers(names, rows),
            ),
        ),
        tables=(Table("block-figures", columns, rows, "Every block.", Numbers(names, rows), True),),
    )


def _draw_blocks(figures: IdentityFigures, *, narrow: bool) -> Plot:
    blocks = figures.blocks
    places = range(1, len(blocks) + 1)
    colors = [COLORS[block.shortcut] for block in blocks]
    with house_style():
        figure = Plot(figsize=NARROW if narrow else WIDE, layout="constrained")
        left, right = figure.subplots(*((2, 1) if narrow else (1, 2)))
        left.bar(places, [block.ratio for block in blocks], color=colors)
        left.set(title="Size of the correction", ylabel="‖F(x)‖ / ‖shortcut(x)‖")
        rises = [block.error_without - figures.error for block in blocks]
        right.bar(places, rises, bottom=figures.error, color=colors)
        right.axhline(figures.error, color=SOFT, lw=1)
        where = {block.name: place for place, block in zip(places, blocks, strict=True)}
        for swap in figures.swaps:
            ((first, second),) = swap.places
            middle = (where[first] + where[second]) / 2
            right.plot(middle, swap.error, "x", color=SERIES[1], ms=5, mew=1.5, zorder=3)
        right.set(title="Dropped (bars), swapped (×)", ylabel="error (%)", ylim=(0, None))
        for axes in (left, right):
            _mark_stages(axes, blocks)
    return figure


def _mark_stages(axes: Axes, blocks: Sequence[BlockFigures]) -> None:
    """A tick at the first block of each stage, named after it."""
    starts = {block.name.split(".")[0]: place for place, block in reversed(_numbered(blocks))}
    axes.set_xticks(list(starts.values()), list(starts))
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("block, first to last")


def _numbered(blocks: Sequence[BlockFigures]) -> list[tuple[int, BlockFigures]]:
    return list(enumerate(blocks, 1))


def _lesions_section(figures: IdentityFigures) -> Section:
    both = (("dropped", figures.drops_at_random), ("swapped", figures.swaps_at_random))
    numbers = Numbers(
        ("lesion", "count", "error", "places"),
        tuple(
            (name, len(lesion.places), lesion.error, _say(lesion))
            for name, lesions in both
            for lesion in lesions
        ),
    )
    text = (
        "Veit, Wilber and Belongie (NIPS 2016) found that residual nets lose little with a few "
        "blocks gone or out of order, and more and more with many: as an ensemble of paths of many "
        "lengths would, and unlike a chain, which breaks at its first missing link."
    )
    if not numbers.rows:
        text += "\n\nThis net has no blocks with an identity shortcut and none of equal shape."
        return Section("Several at a time", text)
    return Section(
        "Several at a time",
        text,
        figures=(
            Figure(
                name="lesions",
                figure=_draw_lesions(figures, narrow=False),
                narrow=_draw_lesions(figures, narrow=True),
                caption="Error after random lesions: mean (line) and extremes (band) of the draws. "
                "The thin line is the intact net.",
                alt="Error against the number of blocks dropped, and of swaps made",
                numbers=numbers,
            ),
        ),
    )


def _draw_lesions(figures: IdentityFigures, *, narrow: bool) -> Plot:
    with house_style():
        figure = Plot(figsize=NARROW if narrow else WIDE, layout="constrained")
        panels = figure.subplots(*((2, 1) if narrow else (1, 2)), sharey=True)
        _draw_series(panels[0], figures.drops_at_random, figures.error)
        panels[0].set(title="Blocks dropped", xlabel="identity blocks dropped at once")
        _draw_series(panels[1], figures.swaps_at_random, figures.error)
        panels[1].set(title="Blocks swapped", xlabel="random swaps within stages")
        for axes in panels:
            axes.set(ylabel="error (%)", ylim=(0, 100))
            axes.tick_params(labelleft=True)
            whole_numbers(axes)
    return figure


def _draw_series(axes: Axes, lesions: Sequence[Lesion], intact: float) -> None:
    errors: dict[int, list[float]] = {}
    for lesion in lesions:
        errors.setdefault(len(lesion.places), []).append(lesion.error)
    counts = [0, *errors]
    groups = [[intact], *errors.values()]
    axes.axhline(intact, color=SOFT, lw=1)
    axes.fill_between(
        counts, list(map(min, groups)), list(map(max, groups)), color=SERIES[4], alpha=0.16, lw=0
    )
    axes.plot(counts, list(map(mean, groups)), "o-", color=SERIES[4], ms=4, lw=2)
    axes.set_xlim(0, max(counts) or 1)


def _say(lesion: Lesion) -> str:
    return " ".join("<->".join(place) for place in lesion.places)


def _proof_section(figures: IdentityFigures) -> Section:
    title = "A deeper net that is no worse, by construction"
    proof = figures.proof
    if proof is None:
        return Section(
            title,
            "Option C projects on every shortcut, so a block of null weights is not the identity, "
            "and the construction of the paper's section 1 is not to be had by null weights.",
        )
    rows = (
        ("residual, evaluation: largest difference between shallow and deep logits",
         proof.eval_difference),
        ("residual, training mode: the same", proof.train_difference),
        ("plain, shallow: largest difference between two pictures' logits",
         proof.plain_variation_before),
        ("plain, deepened: the same", proof.plain_variation),
    )  # fmt: skip
    text = (
        "The paper argues (section 1) that a deeper net should train no worse than a shallower "
        "one, for it can copy the shallow one and make the added layers identities; that deep "
        "plain nets do train worse means that the solver does not find this.\n\n"
        f"Here {proof.extra_blocks} blocks were added to each stage, and the last layer of each "
        "branch (its norm's weight and bias) set to zero. The residual net then computes "
        "relu(x + 0) = x in each new block: its logits are those of the shallow net to the last "
        "bit. A plain net of the same shape, with random weights and batch statistics, computes "
        "relu(0) = 0: deepened like this, it gives one answer to all pictures.\n\n"
        "What this shows: in a residual net the identity is where weights are null, where weight "
        "decay points and where zero initialisation starts. What it does not show: that a plain "
        "block cannot be an identity. It can, with a particular kernel (one at its centre) and "
        "norms that undo themselves, up to rounding, and only as long as batch statistics match; "
        "null weights are no way there, and it would have to be learned."
    )
    table = Table(
        name="proof",
        columns=("on the same pictures", "value"),
        rows=rows,
        caption=f"{figures.label}, {proof.shallow_layers} layers deepened to {proof.deep_layers}, "
        f"{proof.pictures} pictures, float32. 0.00 is exact.",
    )
    return Section(title, text, (), (table,))

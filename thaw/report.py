"""The report of a run: what phase 2 gained, as one HTML file, as PNG plots and as short Markdown.

Values in, values out: tables and numbers go in as pandas frames and dicts, PNG bytes and text come out.
Nothing here opens a file of the workspace; `python -m tasks.report` does, and hands over what it read.
The same input gives the same bytes, so a report carries no date.
"""

import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from thaw.drawing import COLOURS, GREY, INK, LINE, NETWORKS, TINTS, canvas, data_uri, png_of, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASH = "–"
MOST_VALUES = 40  # a slice column with more values than this is cut short in the data summary
MOST_BESIDE = 14  # with more classes the page shows one confusion matrix above the other
MOST_NUMBERED = 30  # a confusion matrix of more classes shows colours without numbers
MOST_NAMED = 120  # and of even more, without names
CALIBRATION_BINS = 10
BESIDE = 4  # pictures in a row of the worst mistakes

Verdict = Literal["gain", "none", "loss", "same"]
Unit = Literal["percent", "score"]
Numbers = np.ndarray[Any, np.dtype[np.float64]]
Counts = np.ndarray[Any, np.dtype[np.int64]]

# key, name, unit, whether higher is better, what it means
METRICS: list[tuple[str, str, Unit, bool, str]] = [
    ("accuracy", "accuracy", "percent", True, "share of the test pictures that were named correctly"),
    (
        "balanced_accuracy",
        "balanced accuracy",
        "percent",
        True,
        "the same for each class on its own, then averaged: a rare class counts as much as a common one",
    ),
    ("auc", "AUC", "score", True, "how well the network ranks pictures: 1 is perfect, 0.5 is guessing"),
    ("f1", "F1", "percent", True, "balance of false alarms (precision) and misses (recall)"),
    (
        "ece",
        "ECE",
        "percent",
        False,
        "expected calibration error, the mean distance between confidence and accuracy: lower is better",
    ),
    (
        "ece_calibrated",
        "ECE, calibrated",
        "percent",
        False,
        "the same after dividing the logits by a temperature that validation chose; no verdict changes",
    ),
]


# ------------------------------------------------------------------------------------------------ numbers


def _number(value: object) -> float | None:
    """The value as a finite float; None for what is missing, undefined or not a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    return float(value) if math.isfinite(value) else None


def _percent(value: object) -> str:
    number = _number(value)
    return DASH if number is None else f"{100 * number:.1f} %"


def _score(value: object) -> str:
    number = _number(value)
    return DASH if number is None else f"{number:.3f}"


def _signed(number: float, decimals: int) -> str:
    """With its sign, and with more decimals where rounding would turn a small number into zero."""
    text = f"{number:+.{decimals}f}"
    if number != 0 and float(text) == 0:
        text = f"{number:+.{decimals + 2}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def _change(value: object, unit: Unit) -> str:
    """A difference: in percentage points without the word, or as a plain difference of scores."""
    number = _number(value)
    if number is None:
        return DASH
    return _signed(100 * number, 1) if unit == "percent" else _signed(number, 3)


def _count(value: object) -> str:
    number = _number(value)
    return DASH if number is None else f"{int(number):,}"


def _p_value(value: object) -> str:
    number = _number(value)
    if number is None:
        return ""
    return "p < 0.001" if number < 0.001 else f"p = {number:.3f}" if number < 0.1 else f"p = {number:.2f}"


# ----------------------------------------------------------------------------------------------- sentences


def _verdict(low: float | None, high: float | None) -> Verdict:
    """A gain only where the whole interval lies above zero, a loss only where it lies below."""
    if low is not None and low > 0:
        return "gain"
    if high is not None and high < 0:
        return "loss"
    return "none"


def same_networks(metrics: Mapping[str, Any]) -> bool:
    """Whether nothing of phase 2 was kept, so that there is no gain to measure; metrics of old records do not say."""
    return bool(metrics.get("phase_2", {}).get("same", False))


def warning(metrics: Mapping[str, Any]) -> str:
    """What to know before the gain is read, and what to try, in one sentence; empty where all is well."""
    phase_2, gain = metrics.get("phase_2", {}), metrics["gain"]
    if phase_2.get("kept_epoch") == 0:
        why = "no epoch was better on validation than head only"
        way = "unfreeze.keep=last"
    elif phase_2.get("share") == 0:
        why = "nothing on the way from head only to the fine-tuned weights was better on validation than head only"
        way = "unfreeze.interpolate=false"
    elif (change := _number(gain["accuracy"])) is not None and change < 0:
        low, high = _number(gain.get("low")), _number(gain.get("high"))
        if low is None or high is None:
            sure = "without an interval this may be chance"
        else:
            zero = "excludes zero" if high < 0 else "includes zero, so this may be chance"
            sure = f"the 95 % interval, {_change(low, 'percent')} to {_change(high, 'percent')}, {zero}"
        ways = "more epochs (unfreeze.epochs) or another unfreeze.ratio"
        if phase_2.get("keep") == "last":
            ways = "unfreeze.keep=best, " + ways
        return (
            f"Phase 2 made accuracy on the test pictures worse by {_change(-change, 'percent').lstrip('+')} points; "
            f"{sure}; try {ways}."
        )
    else:
        return ""
    what = (
        "Phase 2 was not kept: {}, so both networks are the same and there is no gain to measure"
        if same_networks(metrics)
        else "Of phase 2 only BatchNorm's adapted statistics were kept: {}"
    )
    return f"{what.format(why)}; try {way}, more epochs (unfreeze.epochs) or another unfreeze.ratio."


def _headline(metrics: Mapping[str, Any]) -> tuple[Verdict, str]:
    if same_networks(metrics):
        return "same", warning(metrics)
    gain = metrics["gain"]
    before, after = _percent(metrics["head"]["accuracy"]), _percent(metrics["finetuned"]["accuracy"])
    change = f"{_change(gain['accuracy'], 'percent')} points"
    low, high = _number(gain.get("low")), _number(gain.get("high"))
    span = f"{_change(low, 'percent')} to {_change(high, 'percent')}"
    verdict = _verdict(low, high)
    p = _number(gain.get("mcnemar_p"))
    mcnemar = f"; McNemar {_p_value(p)}" if p is not None else ""

    if low is None or high is None:
        sentence = (
            f"Phase 2 moved accuracy from {before} to {after} ({change}), "
            f"but without an interval this is no evidence of a change{mcnemar}."
        )
    elif verdict == "none":
        sentence = (
            f"Phase 2 did not measurably change accuracy: {before} before, {after} after ({change}), "
            f"and the 95 % interval, {span}, includes zero{mcnemar}."
        )
    else:
        verb = "raised" if verdict == "gain" else "lowered"
        sentence = f"Phase 2 {verb} accuracy from {before} to {after}: {change}, 95 % interval {span}{mcnemar}."
    if low is not None and p is not None and (verdict == "none") != (p >= 0.05):
        sentence += " Interval and test disagree, so read this with caution."
    return verdict, sentence


def _metric_rows(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per metric: name, both values, the gain with its interval where there is one, its colour."""
    gain = metrics["gain"]
    rows = []
    for key, name, unit, higher_is_better, meaning in METRICS:
        shown = _percent if unit == "percent" else _score
        values = [_number(metrics[network].get(key)) for network in NETWORKS]
        difference = _number(gain.get(key))
        if difference is None and values[0] is not None and values[1] is not None:
            difference = values[1] - values[0]
        low, high = (_number(gain.get({"accuracy": end, "auc": f"auc_{end}"}.get(key, ""))) for end in ("low", "high"))
        if same_networks(metrics):
            difference = low = high = None
        interval, verdict = "", "none"
        if low is not None and high is not None:
            interval = f"{_change(low, unit)} to {_change(high, unit)}"
            verdict = _verdict(low, high) if higher_is_better else _verdict(-high, -low)
        points = " points" if unit == "percent" and difference is not None else ""
        rows.append(
            {
                "name": name,
                "head": shown(values[0]),
                "finetuned": shown(values[1]),
                "gain": _change(difference, unit) + points,
                "interval": interval,
                "verdict": verdict,
                "meaning": meaning,
            }
        )
    return rows


def temperatures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """By what the logits of each network are divided so that its confidence can be believed."""
    return {network: float(metrics[network]["temperature"]) for network in NETWORKS}


def _operating(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each network that has one its operating point: the threshold, and each rate with its interval, as texts."""
    rows = []
    for network, name in NETWORKS.items():
        if found := metrics.get("operating", {}).get(network):
            rates = {
                rate: (
                    _percent(found[rate]["value"]),
                    f"{_percent(found[rate]['low'])} to {_percent(found[rate]['high'])}",
                )
                for rate in ("recall", "precision", "specificity")
            }
            rows.append({"name": name, "threshold": _score(found["threshold"]), **rates})
    return rows


def summary(metrics: Mapping[str, Any]) -> str:
    """The headline and a small table as Markdown, for a UI or a terminal."""
    verdict, headline = _headline(metrics)
    caution = warning(metrics) if verdict != "same" else ""
    lines = [
        f"**{headline}**",
        "",
        *([caution, ""] if caution else []),
        "| | head only | fine-tuned | gain | 95 % interval |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in _metric_rows(metrics):
        cells = (row["name"], row["head"], row["finetuned"], row["gain"], row["interval"] or DASH)
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"Measured on {_count(metrics['test_pictures'])} test pictures; ECE: lower is better."]
    return "\n".join(lines) + "\n"


def promotion(decision: Mapping[str, Any], acted: bool = True) -> str:
    """A decision of `thaw.promotion` as Markdown: the verdict, its reason, what each class and slice lost or won."""
    gain, falls = decision.get("gain") or {}, decision.get("falls") or []
    champion = _plain(decision.get("champion") or "the model in use")
    verdict = "Promoted: this model is in use now" if decision.get("promoted") else f"Kept: {champion} stays in use"
    if not acted:
        verdict = f"Would be {verdict[0].lower()}{verdict[1:].split(':')[0]}; nothing was changed"
    reason = _plain(decision.get("reason") or "no reason was given")
    lines = [f"**{verdict}**", "", f"{reason[0].upper()}{reason[1:]}."]
    if gain:
        lines += [
            "",
            f"| | pictures | {champion} | new model | change in points | may lose |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        span = f"{_change(gain.get('low'), 'percent')} to {_change(gain.get('high'), 'percent')}"
        total = {"part": "accuracy", "value": "all", "pictures": gain.get("test_pictures"), "limit": gain.get("margin")}
        total |= {"change": gain.get("accuracy"), "before": gain.get("before"), "after": gain.get("after")}
        total["within"] = gain.get("low", 0) >= -gain.get("margin", 1) - 1e-9
        for row in [total, *falls]:
            limit = _number(row.get("limit"))
            cells = [
                f"{_plain(row.get('part', ''))}: {_plain(row.get('value', ''))}",
                _count(row.get("pictures")),
                _percent(row.get("before")),
                _percent(row.get("after")),
                _change(row.get("change"), "percent") + (f" ({span})" if row is total else ""),
                "too few" if limit is None else f"{100 * limit:.1f}",
            ]
            mark = "" if row.get("within", True) else "**"
            lines.append("| " + " | ".join(f"{mark}{cell}{mark}" for cell in cells) + " |")
        lines += [
            "",
            "Both models answered the same test pictures. Of a class the recall counts, of a slice the accuracy; "
            "in brackets is the 95 % interval, and its lower end is what the margin limits.",
        ]
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    """A user's text in Markdown, as it stands."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!$])", r"\\\1", str(value))


# -------------------------------------------------------------------------------------------------- plots


def _numbers(column: pd.Series) -> Numbers:
    """A column as floats, NaN for an empty cell: a table with empty cells may have been read as text."""
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def curves(head: pd.DataFrame, unfreeze: pd.DataFrame | None) -> bytes:
    """Loss and validation accuracy over both phases as PNG; phase 2 continues the epochs of phase 1.

    Both phases get the same width, however many epochs each had; the seam between the panels is the moment
    of unfreezing. Epoch 0 of `unfreeze` is the network that phase 1 kept, hence drawn on the seam.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    phases = [("head", head, 0)]
    last = int(head["epoch"].max()) if len(head) else 0
    if unfreeze is not None and len(unfreeze):
        phases.append(("finetuned", unfreeze, last))
    figure = canvas(10, 5.8)
    grid = figure.subplots(2, len(phases), sharex="col", sharey="row", squeeze=False)
    figure.subplots_adjust(left=0.075, right=0.985, top=0.86, bottom=0.095, wspace=0, hspace=0.1)

    for column, (phase, history, offset) in enumerate(phases):
        epochs = _numbers(history["epoch"]) + offset
        marker = "o" if len(history) <= 25 else None
        losses, accuracies = grid[0, column], grid[1, column]
        for axes, name, colour, style in (
            (losses, "train_loss", GREY, (0, (4, 1.5))),
            (losses, "val_loss", COLOURS[phase], "-"),
            (accuracies, "val_accuracy", COLOURS[phase], "-"),
        ):
            values = _numbers(history[name])
            axes.plot(epochs, values, color=colour, linestyle=style, linewidth=1.8, marker=marker, markersize=3.5)
        end = int(np.nanmax(epochs)) if len(epochs) else offset
        if phase == "head":
            ends = (
                min(0.75, 1 - 0.02 * end) if end < 40 else 0,
                max(end, 1) + (0 if len(phases) == 2 else 0.02 * end),
            )
        else:
            ends = (offset, max(end, offset + 1) + max(0.25, 0.03 * (end - offset)))
        for axes in (losses, accuracies):
            tidy(axes)
            axes.set_facecolor(TINTS[phase])
            axes.set_xlim(*ends)
        accuracies.xaxis.set_major_locator(
            MaxNLocator(nbins=10, integer=True, steps=[1, 2, 5, 10], prune="lower" if phase == "finetuned" else None)
        )
        accuracy = _numbers(history["val_accuracy"])
        if np.isfinite(accuracy).any():
            best = int(np.nanargmax(accuracy))
            accuracies.text(
                0.975,
                0.06,
                f"highest {100 * accuracy[best]:.1f} %, epoch {epochs[best]:.0f}",
                transform=accuracies.transAxes,
                horizontalalignment="right",
                color=INK,
                fontsize=9,
                bbox={"facecolor": TINTS[phase], "edgecolor": "none", "alpha": 0.85, "pad": 2},
            )
        if phase == "head":
            losses.set_title("Phase 1: head on the frozen backbone", loc="left", fontsize=10.5, color=INK)
        else:
            losses.set_title("Phase 2: backbone unfrozen", loc="right", fontsize=10.5, color=INK)

    if len(phases) == 2:
        for axes in grid[:, 0]:
            axes.spines["right"].set_visible(False)
        for axes in grid[:, 1]:
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
        seam = grid[0, 1].get_position().x0
        bottom, top = grid[1, 1].get_position().y0, grid[0, 1].get_position().y1
        from matplotlib.lines import Line2D

        figure.add_artist(Line2D([seam, seam], [bottom, top + 0.015], color=INK, linewidth=1.4, linestyle="--"))
        figure.text(
            seam, top + 0.025, f"unfrozen after epoch {last}", horizontalalignment="center", fontsize=9.5,
            fontweight="bold", color=INK,
        )  # fmt: skip
    grid[0, 0].set_ylabel("loss", color=INK)
    grid[1, 0].set_ylabel("validation accuracy", color=INK)
    grid[1, 0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    figure.text(0.53, 0.015, "epoch", horizontalalignment="center", fontsize=10, color=INK)
    _curve_legend(figure, [phase for phase, _, _ in phases])
    return png_of(figure)


def _curve_legend(figure: "Figure", phases: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    entries = [Line2D([], [], color=GREY, linestyle=(0, (4, 1.5)), linewidth=1.8, label="training")]
    entries += [
        Line2D([], [], color=COLOURS[phase], linewidth=1.8, label=f"validation, {NETWORKS[phase]}") for phase in phases
    ]
    figure.legend(
        handles=entries,
        loc="upper center",
        ncols=3,
        frameon=False,
        fontsize=9.5,
        bbox_to_anchor=(0.53, 1.005),
    )


def _short(name: str, longest: int = 22) -> str:
    """A class name that fits beside a matrix; cut in the middle, since names often differ at the end."""
    if len(name) <= longest:
        return name
    half = (longest - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _counts(predictions: pd.DataFrame, network: str, classes: Sequence[str]) -> Counts:
    """Rows are true classes, columns predicted ones."""
    table = pd.crosstab(predictions["label"].astype(str), predictions[f"{network}_prediction"].astype(str))
    return table.reindex(index=list(classes), columns=list(classes), fill_value=0).to_numpy(dtype=np.int64)


def confusion(predictions: pd.DataFrame, classes: Sequence[str], stacked: bool = False) -> bytes:
    """The confusion matrices of both networks as PNG: counts, and percent of each true class.

    Side by side, or one above the other. Above MOST_NUMBERED classes there is no room for numbers, and the
    colours alone tell the percents; above MOST_NAMED there is none for names either.
    """
    many, crowded = len(classes) > 6, len(classes) > MOST_NUMBERED
    names = [_short(name) if len(classes) <= MOST_NAMED else "" for name in classes]
    cell = MOST_NUMBERED * 0.46 / len(classes) if crowded else 0.46 if many else max(0.8, 3.4 / len(classes))
    name_size = min(9.0, 60 * cell)  # in points; a row is 72 times `cell` high
    longest = max(map(len, names)) * name_size * 0.0078
    turned = longest > 0.9 * cell
    # All in inches: `left` and `below` hold the names, `above` the title, `beside` the colour bar.
    side, left, above, beside, gap = cell * len(classes), 0.4 + longest, 0.4, 0.85, 0.3
    below = 0.4 + longest if turned else 0.55
    wide, high = (1, 2) if stacked else (2, 1)
    width = left + wide * side + (wide - 1) * gap + beside
    height = high * (above + side + below)
    figure = canvas(width, height)
    for position, (network, title) in enumerate(NETWORKS.items()):
        column, row_from_below = (0, 1 - position) if stacked else (position, 0)
        corner = (
            (left + column * (side + gap)) / width,
            (below + row_from_below * (above + side + below)) / height,
        )
        axes = figure.add_axes((*corner, side / width, side / height))
        counts = _counts(predictions, network, classes)
        percents = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = axes.imshow(percents, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        axes.set_title(title, color=COLOURS[network], fontsize=11, fontweight="bold")
        named = range(len(classes)) if len(classes) <= MOST_NAMED else []
        beside_names = named and (stacked or position == 0)
        # parse_math=False: a dollar sign in a class name is no formula.
        axes.set_xticks(
            named,
            names if named else [],
            parse_math=False,
            rotation=90 if turned else 0,
            fontsize=name_size,
            color=INK,
        )
        axes.set_yticks(named, names if beside_names else [], parse_math=False, fontsize=name_size, color=INK)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted", fontsize=9.5, color=GREY)
        if stacked or position == 0:
            axes.set_ylabel("true class", fontsize=9.5, color=GREY)
        for spine in axes.spines.values():
            spine.set_color(LINE)
        if not crowded:
            edges = np.arange(len(classes) + 1) - 0.5
            axes.hlines(edges, edges[0], edges[-1], color="white", linewidth=1)
            axes.vlines(edges, edges[0], edges[-1], color="white", linewidth=1)
            _write_counts(axes, counts, percents, many)
        if stacked or position == 1:
            place = (1 - 0.7 / width, corner[1], 0.14 / width, side / height)
            bar = figure.colorbar(image, cax=figure.add_axes(place), format="%d %%")
            bar.outline.set_visible(False)
            bar.ax.tick_params(length=0, labelsize=8, labelcolor=GREY)
    return png_of(figure)


def _write_counts(axes: "Axes", counts: Counts, percents: Numbers, many: bool) -> None:
    """Each cell's count and, below it, its percent; a large matrix reads better when its zeros are blank."""
    large, small, sign = (8.5, 6.5, "%") if many else (13.0, 9.5, " %")
    for row, column in np.ndindex(*counts.shape):
        count, percent = int(counts[row, column]), float(percents[row, column])
        if many and not count:
            continue
        for text, size, rise, side, weight in (
            (f"{count:,}", large, 0.1, "bottom", "bold" if row == column else "normal"),
            (f"{percent:.0f}{sign}", small, -0.25, "top", "normal"),
        ):
            axes.annotate(
                text, (column, row), xytext=(0, rise * small), textcoords="offset points",
                horizontalalignment="center", verticalalignment=side, fontsize=size, fontweight=weight,
                color="white" if percent > 55 else INK,
            )  # fmt: skip


def _probabilities(predictions: pd.DataFrame, network: str, classes: Sequence[str]) -> Numbers:
    return predictions[[f"{network}_p_{name}" for name in classes]].to_numpy(dtype=np.float64)


def _wilson(rate: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a rate seen in `count` pictures, good for small counts too."""
    z = 1.96
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def calibration(predictions: pd.DataFrame, classes: Sequence[str], temperatures: Mapping[str, float]) -> bytes:
    """Reliability diagrams of both networks as PNG: accuracy against top-class confidence, counts below.

    The thin line is what dividing the logits by the temperature of validation makes of it.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    lowest = CALIBRATION_BINS // max(len(classes), 1) / CALIBRATION_BINS  # the top class never has less than 1/n
    figure = canvas(10, 5.2)
    grid = figure.subplots(2, 2, sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1))
    figure.subplots_adjust(left=0.08, right=0.985, top=0.93, bottom=0.1, wspace=0.1, hspace=0.08)
    for column, (network, title) in enumerate(NETWORKS.items()):
        above, below = grid[0, column], grid[1, column]
        colour = COLOURS[network]
        probabilities = _probabilities(predictions, network, classes)
        right = (predictions[f"{network}_prediction"].astype(str) == predictions["label"].astype(str)).to_numpy()
        for axes in (above, below):
            tidy(axes)
        above.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 2)), linewidth=1.2)
        table = _reliability(probabilities.max(axis=1), right)
        below.bar(table["middle"], table["pictures"], width=0.9 / CALIBRATION_BINS, color=colour, alpha=0.75)
        whiskers = np.maximum([table["rate"] - table["low"], table["high"] - table["rate"]], 0)
        above.errorbar(
            table["confidence"], table["rate"], yerr=whiskers, color=colour, linewidth=1.8,
            marker="o", markersize=5, elinewidth=1, capsize=2.5,
        )  # fmt: skip
        powers = probabilities ** (1 / temperatures[network])
        table = _reliability((powers / powers.sum(axis=1, keepdims=True)).max(axis=1), right)
        above.plot(table["confidence"], table["rate"], color=INK, linewidth=1, marker=".", markersize=5)
        above.set_title(title, color=colour, fontsize=11, fontweight="bold")
        above.set_ylim(0, 1.03)
        above.set_xlim(lowest - 0.01, 1.01)
        above.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        below.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        below.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10]))
        below.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
        below.set_xlabel("confidence of the prediction", color=INK, fontsize=9.5)
    grid[0, 0].text(
        0.02, 0.95, "above the dashed line: more often right than it says\nthin: after temperature scaling",
        transform=grid[0, 0].transAxes, verticalalignment="top", fontsize=8.5, color=GREY,
    )  # fmt: skip
    grid[0, 0].set_ylabel("accuracy", color=INK)
    grid[1, 0].set_ylabel("pictures", color=INK)
    figure.align_ylabels(grid[:, 0])
    return png_of(figure)


def _reliability(confidence: Numbers, right: np.ndarray[Any, np.dtype[np.bool_]]) -> pd.DataFrame:
    """For each bin of confidence that has pictures: how many, confidence, the share that is right, its interval."""
    bins = np.clip((confidence * CALIBRATION_BINS).astype(int), 0, CALIBRATION_BINS - 1)
    rows = []
    for number in np.unique(bins):
        inside = bins == number
        rate, count = float(right[inside].mean()), int(inside.sum())
        low, high = _wilson(rate, count)
        middle = (number + 0.5) / CALIBRATION_BINS
        rows.append((middle, count, float(confidence[inside].mean()), rate, low, high))
    return pd.DataFrame(rows, columns=["middle", "pictures", "confidence", "rate", "low", "high"])


def forgetting(blocks: pd.DataFrame) -> bytes:
    """How far phase 2 moved each block, from input to output, as PNG: its weights above, what it says below."""
    figure = canvas(10, 4.6)
    above, below = figure.subplots(2, 1, sharex=True)
    places = np.arange(len(blocks))
    for axes in (above, below):
        tidy(axes)
    above.bar(places, _numbers(blocks["distance"]), color=COLOURS["finetuned"], alpha=0.85)
    above.set_ylabel("distance moved\n(share of weights)", color=INK, fontsize=9.5)
    above.set_ylim(bottom=0)
    below.plot(places, _numbers(blocks["cka"]), color=COLOURS["finetuned"], linewidth=1.8, marker="o", markersize=4)
    below.axhline(1, color=GREY, linestyle=(0, (4, 2)), linewidth=1.2)
    below.set_ylabel("likeness of output\n(linear CKA)", color=INK, fontsize=9.5)
    below.set_ylim(min(0.0, float(np.nanmin([0.0, *_numbers(blocks["cka"])]))), 1.05)
    below.set_xticks(
        places, [_short(str(name)) for name in blocks["block"]], rotation=90, fontsize=7.5, parse_math=False
    )
    figure.tight_layout()
    return png_of(figure)


def mistakes(worst: pd.DataFrame, images: Sequence[bytes]) -> bytes:
    """The worst mistakes as one PNG: each picture with its true class, what the network said, and its path."""
    from thaw.pictures import open_image

    if not images:
        figure = canvas(8, 1)
        figure.text(0.5, 0.5, "no mistakes on the test pictures", horizontalalignment="center", color=GREY)
        return png_of(figure)
    rows = math.ceil(len(images) / BESIDE)
    figure = canvas(8, 2.7 * rows)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.995, bottom=0.24 / rows, wspace=0.08, hspace=0.4)
    grid = figure.subplots(rows, BESIDE, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, record, image in zip(grid, worst.to_dict("records"), images, strict=False):
        axes.imshow(open_image(io.BytesIO(image)).convert("RGB"))
        for line, (text, colour, size) in enumerate(
            (
                (f"true: {_short(record['label'], 20)}", INK, 9.5),
                (
                    f"said: {_short(record['prediction'], 13)}, {_percent(record['confidence'])}",
                    COLOURS["finetuned"],
                    9.5,
                ),
                (_short(record["path"], 30), GREY, 7.5),
            )
        ):
            axes.annotate(
                text, (0.5, 0), xycoords="axes fraction", xytext=(0, -13 * line - 4), textcoords="offset points",
                horizontalalignment="center", verticalalignment="top", color=colour, fontsize=size, parse_math=False,
            )  # fmt: skip
    return png_of(figure)


# ------------------------------------------------------------------------------------------------- tables


def worst_mistakes(predictions: pd.DataFrame, classes: Sequence[str], n: int = 12) -> pd.DataFrame:
    """The fine-tuned network's most confident errors, most confident first.

    Columns: path, label, prediction, confidence (probability of the prediction), head_prediction.
    """
    label = predictions["label"].astype(str)
    prediction = predictions["finetuned_prediction"].astype(str)
    chosen = prediction.map({name: number for number, name in enumerate(classes)}).to_numpy(dtype=np.int64)
    rows = np.arange(len(predictions))
    table = pd.DataFrame(
        {
            "path": predictions["path"].astype(str),
            "label": label,
            "prediction": prediction,
            "confidence": _probabilities(predictions, "finetuned", classes)[rows, chosen],
            "head_prediction": predictions["head_prediction"].astype(str),
        }
    )
    wrong = table[(label != prediction).to_numpy()]
    return wrong.sort_values(["confidence", "path"], ascending=[False, True]).head(n).reset_index(drop=True)


def _text(value: object) -> str:
    """A cell of a frame or of the parameters as people write it; a dash for a missing one."""
    if value is None or value is pd.NA or value == "" or (isinstance(value, float) and math.isnan(value)):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _pairs(table: pd.DataFrame, keys: list[str], values: list[str]) -> list[dict[str, Any]]:
    """From one row per network to one row per key, with each value as a pair (head only, fine-tuned)."""
    table = table.assign(**{name: _numbers(table[name]) for name in [*values, "pictures"]})
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for record in table.to_dict("records"):
        key = tuple(_text(record[name]) for name in keys)
        row = rows.setdefault(key, {"key": key, "pictures": _count(record["pictures"])})
        for value in values:
            row.setdefault(value, {})[str(record["model"])] = record[value]
    return list(rows.values())


def _with_gain(rows: list[dict[str, Any]], values: list[str]) -> list[dict[str, Any]]:
    """Each pair of numbers as three cells: head only, fine-tuned, gain in points."""
    shown = []
    for row in rows:
        cells = []
        for value in values:
            before, after = (_number(row[value].get(network)) for network in NETWORKS)
            gain = after - before if before is not None and after is not None else None
            cells.append((_percent(before), _percent(after), _change(gain, "percent")))
        shown.append({"key": row["key"], "pictures": row["pictures"], "cells": cells})
    return shown


def _largest(slices_table: pd.DataFrame) -> pd.DataFrame:
    """Of each slice with very many values those with most pictures, so that the page stays one to read."""
    ranks = slices_table.groupby(["model", "slice"])["pictures"].rank(method="first", ascending=False)
    return slices_table[ranks <= MOST_VALUES]


def _groups(frame: pd.DataFrame) -> pd.Series:
    """The group of each picture that has one; an empty cell is none."""
    groups = frame["group"] if "group" in frame.columns else pd.Series(index=frame.index, dtype=object)
    groups = groups.dropna().astype(str)
    return groups[groups != ""]


def _data_summary(manifest: pd.DataFrame, classes: Sequence[str], slices: Sequence[str]) -> dict[str, Any]:
    """Pictures per split and class, groups per split, pictures per split and value of each slice."""
    usual = ["train", "val", "test"]
    present = [str(name) for name in manifest["split"].unique()]
    splits = [name for name in usual if name in present] + sorted(set(present) - set(usual))
    split = manifest["split"].astype(str)

    def rows(column: pd.Series, names: Iterable[str]) -> list[tuple[str, list[str]]]:
        table = Counter(zip(column, split, strict=True))
        shown = []
        for name in names:
            numbers = [table[name, s] for s in splits]
            shown.append((name, [_count(number) for number in [*numbers, sum(numbers)]]))
        return shown

    blocks = [("class", rows(manifest["label"].astype(str), classes), 0)]
    for name in slices:
        if name not in manifest.columns:
            continue
        column = manifest[name].map(_text)
        values = sorted(column.unique())
        blocks.append((name, rows(column, values[:MOST_VALUES]), max(0, len(values) - MOST_VALUES)))
    totals = [int((split == s).sum()) for s in splits]
    grouped = _groups(manifest)
    groups = [_count(grouped[split == s].nunique()) for s in splits] + [_count(grouped.nunique())]
    return {
        "splits": splits,
        "blocks": blocks,
        "totals": [_count(number) for number in [*totals, sum(totals)]],
        "groups": groups if len(grouped) else [],
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested dict as dotted names and values."""
    rows: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", "none" if isinstance(value, Mapping) else _text(value)))
    return rows


def _sections(params: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The parameters by phase; those that stand outside any phase come first, under no name."""
    loose = {name: value for name, value in params.items() if not isinstance(value, Mapping)}
    sections = [("", _flat(loose))] if loose else []
    return sections + [(str(name), _flat(value)) for name, value in params.items() if isinstance(value, Mapping)]


def _kept(phase_2: Mapping[str, Any]) -> str:
    """Which epoch of phase 2 the fine-tuned network comes from, as the end of a sentence; empty where none does."""
    if not (epoch := phase_2.get("kept_epoch")) or phase_2.get("share") == 0:
        return ""
    which = "its last one" if phase_2.get("keep") == "last" else "its best one on validation"
    way = f", {100 * phase_2['share']:.0f} % of the way there from head only" if "share" in phase_2 else ""
    return f"; of phase 2 epoch {epoch} is kept, {which}{way}"


def _interval_bar(gain: Mapping[str, Any]) -> dict[str, float] | None:
    """Where zero, the gain and its interval lie on a bar that is 100 wide."""
    middle, low, high = (_number(gain.get(name)) for name in ("accuracy", "low", "high"))
    if middle is None or low is None or high is None:
        return None
    left, right = min(low, middle, 0.0), max(high, middle, 0.0)
    room = 0.08 * (right - left) or 0.01
    left, right = left - room, right + room

    def place(value: float) -> float:
        return round(100 * (value - left) / (right - left), 2)

    return {
        "zero": place(0),
        "gain": place(middle),
        "low": place(low),
        "width": round(place(high) - place(low), 2),
    }


def html(
    *,
    title: str,
    metrics: Mapping[str, Any],
    head_history: pd.DataFrame,
    unfreeze_history: pd.DataFrame | None,
    predictions: pd.DataFrame,
    classes_table: pd.DataFrame,
    slices_table: pd.DataFrame,
    blocks_table: pd.DataFrame,
    classes: Sequence[str],
    slices: Sequence[str],
    manifest: pd.DataFrame,
    pictures: Callable[[list[str]], Sequence[bytes]],
    params: Mapping[str, Any],
    versions: Mapping[str, str],
    commit: str,
    data_hash: str,
    mistakes: int = 12,
) -> str:
    """The whole report as one HTML text that needs no other file and no network.

    `pictures` is asked once for the PNG bytes of the worst mistakes, by the paths of `predictions`.
    """
    import jinja2

    worst = worst_mistakes(predictions, classes, mistakes)
    paths = [str(path) for path in worst["path"]]
    images = pictures(paths) if paths else []
    assert len(images) == len(paths), f"asked for {len(paths)} pictures, got {len(images)}"
    label = predictions["label"].astype(str)
    before = predictions["head_prediction"].astype(str) == label
    after = predictions["finetuned_prediction"].astype(str) == label
    verdict, headline = _headline(metrics)
    quality = ["precision", "recall", "f1"]
    by_slice = [name for name in ("accuracy", "balanced_accuracy", "precision", "recall") if name in slices_table]
    test_groups = _groups(predictions)

    template = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(resources.files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        verdict=verdict,
        headline=headline.replace(" %", "\u00a0%"),
        warning=warning(metrics).replace(" %", "\u00a0%") if verdict != "same" else "",
        accuracy={network: _percent(metrics[network]["accuracy"]) for network in NETWORKS},
        gain=DASH if verdict == "same" else _change(metrics["gain"]["accuracy"], "percent"),
        interval=[_change(metrics["gain"].get(end), "percent") for end in ("low", "high")],
        bar=None if verdict == "same" else _interval_bar(metrics["gain"]),
        corrected=_count(int((after & ~before).sum())),
        spoiled=_count(int((before & ~after).sum())),
        test_pictures=_count(metrics["test_pictures"]),
        test_groups=_count(test_groups.nunique()) if len(test_groups) else "",
        some_alone=0 < len(test_groups) < len(predictions),
        positive=str(classes[1]) if len(classes) == 2 else "",
        metric_rows=_metric_rows(metrics),
        curves=data_uri(curves(head_history, unfreeze_history)),
        kept_epoch=_kept(metrics.get("phase_2", {})),
        confusion=data_uri(confusion(predictions, classes, stacked=len(classes) > MOST_BESIDE)),
        confusion_width=800 if len(classes) <= 6 else 1060,
        numbered=len(classes) <= MOST_NUMBERED,
        calibration=data_uri(calibration(predictions, classes, temperatures(metrics))),
        temperatures={NETWORKS[network]: f"{value:.2f}" for network, value in temperatures(metrics).items()},
        operating=_operating(metrics),
        promise=metrics.get("operating", {}).get("promise"),
        at_least=_percent(metrics.get("operating", {}).get("at_least")),
        forgetting=data_uri(forgetting(blocks_table)),
        kept=_percent(metrics["forgetting"].get("kept")),
        divergence=_score(metrics["forgetting"].get("kl")),
        distance=_percent(metrics["forgetting"]["distance"]),
        cka=_score(metrics["forgetting"]["cka"]),
        wrong=_count(int((~after).sum())),
        mistakes=[
            {**record, "confidence": _percent(record["confidence"]), "image": data_uri(image)}
            for record, image in zip(worst.to_dict("records"), images, strict=True)
        ],
        class_rows=_with_gain(_pairs(classes_table, ["class"], quality), quality),
        slice_columns=[name.replace("_", " ") for name in by_slice],
        slice_rows=_with_gain(_pairs(_largest(slices_table), ["slice", "value"], by_slice), by_slice),
        data=_data_summary(manifest, classes, slices),
        sections=_sections(params),
        versions=dict(versions),
        commit=commit or DASH,
        data_hash=data_hash or DASH,
    )

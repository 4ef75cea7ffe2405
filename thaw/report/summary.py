"""The gain of phase 2, in sentences and small tables."""

from collections.abc import Mapping
from typing import Any, Literal

from thaw.formats import DASH, Unit, change, count, escaped, number, percent, score
from thaw.statistics.records import FIGURES, LOWER_IS_BETTER, NETWORKS, for_the_better, same_networks

Verdict = Literal["gain", "none", "loss", "same"]

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
        "ece_uncalibrated",
        "ECE, uncalibrated",
        "percent",
        False,
        "the same without temperature scaling, which changes no predicted class",
    ),
]


def verdict_of(low: float | None, high: float | None) -> Verdict:
    """A gain only where the whole interval lies above zero, a loss only where it lies below."""
    if low is not None and low > 0:
        return "gain"
    if high is not None and high < 0:
        return "loss"
    return "none"


def warning(metrics: Mapping[str, Any]) -> str:
    """One sentence about what is wrong with the network and one about the gain; empty if all is
    well."""
    return " ".join(filter(None, [_one_class_warning(metrics), _gain_warning(metrics)]))


def _one_class_warning(metrics: Mapping[str, Any]) -> str:
    before, after = (metrics[network].get("only_class") for network in NETWORKS)
    if after is None:
        return ""
    if before is None:
        return (
            f"The fine-tuned network calls every test picture '{after}', which head only does not: phase 2 overwrote "
            "what told the classes apart; raise unfreeze.ratio, or try unfreeze.batchnorm=frozen."
        )
    return (
        f"The fine-tuned network calls every test picture '{after}', whatever it shows; try class_weights=balanced, "
        "more epochs (head.max_epochs, unfreeze.epochs) or a higher head.learning_rate."
    )


def _gain_warning(metrics: Mapping[str, Any]) -> str:
    phase_2, gain = metrics.get("phase_2", {}), metrics["gain"]
    if phase_2.get("kept_epoch") == 0:
        why = "no epoch was better on validation than head only"
        remedy = "unfreeze.keep=last"
    elif phase_2.get("share") == 0:
        why = "no interpolation between head only and the fine-tuned weights was better on validation than head only"
        remedy = "unfreeze.interpolate=false"
    elif (gained := number(gain["accuracy"])) is not None and gained < 0:
        low, high = number(gain.get("low")), number(gain.get("high"))
        if low is None or high is None:
            sure = "without an interval this may be chance"
        else:
            zero = "excludes zero" if high < 0 else "includes zero, so this may be chance"
            sure = f"the 95 % interval, {change(low, 'percent')} to {change(high, 'percent')}, {zero}"
        remedies = "more epochs (unfreeze.epochs) or another unfreeze.ratio"
        if phase_2.get("keep") == "last":
            remedies = "unfreeze.keep=best, " + remedies
        return (
            f"Phase 2 made accuracy on the test pictures worse by {change(-gained, 'percent').lstrip('+')} points; "
            f"{sure}; try {remedies}."
        )
    else:
        return ""
    consequence = (
        "Phase 2 was not kept: {}, so both networks are the same and there is no gain to measure"
        if same_networks(metrics)
        else "Only the adapted BatchNorm statistics of phase 2 were kept: {}"
    )
    return f"{consequence.format(why)}; try {remedy}, more epochs (unfreeze.epochs) or another unfreeze.ratio."


def headline_of(metrics: Mapping[str, Any]) -> tuple[Verdict, str]:
    if same_networks(metrics):
        return "same", warning(metrics)
    gain = metrics["gain"]
    before, after = percent(metrics["head"]["accuracy"]), percent(metrics["finetuned"]["accuracy"])
    moved = f"{change(gain['accuracy'], 'percent')} points"
    low, high = number(gain.get("low")), number(gain.get("high"))
    span = f"{change(low, 'percent')} to {change(high, 'percent')}"
    verdict = verdict_of(low, high)
    why = f": {gain['no_interval']}" if gain.get("no_interval") else ""

    if low is None or high is None:
        sentence = (
            f"Phase 2 moved accuracy from {before} to {after} ({moved}), but without an interval this is no evidence "
            f"of a change{why}."
        )
    elif verdict == "none":
        sentence = (
            f"Phase 2 did not measurably change accuracy: {before} before, {after} after ({moved}), "
            f"and the 95 % interval, {span}, includes zero."
        )
    else:
        verb = "raised" if verdict == "gain" else "lowered"
        sentence = f"Phase 2 {verb} accuracy from {before} to {after}: {moved}, 95 % interval {span}."
    return verdict, sentence


def metric_rows(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per metric: name, both values, the gain with its interval if there is one, its
    verdict."""
    gain = metrics["gain"]
    rows = []
    for key, name, unit, higher_is_better, meaning in METRICS:
        shown = percent if unit == "percent" else score
        values = [number(metrics[network].get(key)) for network in NETWORKS]
        difference = number(gain.get(key))
        if difference is None and values[0] is not None and values[1] is not None:
            difference = values[1] - values[0]
        low, high = (number(gain.get({"accuracy": end, "auc": f"auc_{end}"}.get(key, ""))) for end in ("low", "high"))
        if same_networks(metrics):
            difference = low = high = None
        interval, verdict = "", "none"
        if low is not None and high is not None:
            interval = f"{change(low, unit)} to {change(high, unit)}"
            verdict = verdict_of(low, high) if higher_is_better else verdict_of(-high, -low)
        elif why := gain.get({"accuracy": "no_interval", "auc": "auc_no_interval"}.get(key, "")):
            interval = f"no interval: {why}"
        points = " points" if unit == "percent" and difference is not None else ""
        rows.append(
            {
                "name": name,
                "head": shown(values[0]),
                "finetuned": shown(values[1]),
                "gain": change(difference, unit) + points,
                "interval": interval,
                "verdict": verdict,
                "meaning": meaning,
            }
        )
    return rows


def deciding_row(row: Mapping[str, Any], same: bool) -> dict[str, str]:
    """The same for the figure that decides about a new model; `same`: phase 2 was not kept."""
    unit, shown = row["unit"], percent if row["unit"] == "percent" else score
    least, most, _ = for_the_better(row)
    has_interval = least is not None and not same
    return {
        "name": FIGURES[row["by"]],
        "head": shown(row["before"]),
        "finetuned": shown(row["after"]),
        "gain": DASH if same else change(row["change"], unit) + " points" * (unit == "percent" and bool(row["change"])),
        "interval": f"{change(row['low'], unit)} to {change(row['high'], unit)}" if has_interval else "",
        "verdict": verdict_of(least, most) if has_interval else "none",
        "meaning": "decides whether a new model takes the place of the one in use (promote.by)"
        + (": lower is better" if row["by"] in LOWER_IS_BETTER else ""),
    }


def temperatures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The temperature of each network."""
    return {network: float(metrics[network]["temperature"]) for network in NETWORKS}


def operating(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The operating points of the networks that have one: threshold, and rates with intervals, as
    texts."""
    rows = []
    for network, name in NETWORKS.items():
        if point := metrics.get("operating", {}).get(network):
            rates = {
                rate: (
                    percent(point[rate]["value"]),
                    "no interval"
                    if point[rate]["low"] is None
                    else f"{percent(point[rate]['low'])} to {percent(point[rate]['high'])}",
                )
                for rate in ("recall", "precision", "specificity")
            }
            rows.append({"name": name, "threshold": score(point["threshold"]), **rates})
    return rows


def summary(metrics: Mapping[str, Any]) -> str:
    """The headline and a small table as Markdown, for a UI or a terminal."""
    verdict, headline = headline_of(metrics)
    caution = warning(metrics) if verdict != "same" else ""
    lines = [
        f"**{escaped(headline)}**",
        "",
        *([escaped(caution), ""] if caution else []),
        "| | head only | fine-tuned | gain | 95 % interval |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in metric_rows(metrics):
        cells = (row["name"], row["head"], row["finetuned"], row["gain"], row["interval"] or DASH)
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"Measured on {count(metrics['test_pictures'])} test pictures; ECE: lower is better."]
    return "\n".join(lines) + "\n"


def kept_epochs(head: Mapping[str, Any], phase_2: Mapping[str, Any], epochs: int) -> str:
    """Sentences about the weights that each phase kept. `head` has epochs and kept_epoch of phase
    1, `epochs` is the number of phase 2."""
    sentences = ["There was no phase 1: phase 2 starts from a head with random weights."]
    if head["epochs"]:
        sentences = [
            f"Phase 1 ran {_epochs(head['epochs'])} and kept epoch {head['kept_epoch']}, the best on validation; "
            "phase 2 starts from it."
        ]
    ran, kept_epoch = f"Phase 2 ran {_epochs(epochs)}", phase_2.get("kept_epoch")
    kept_weights = "the last" if phase_2.get("keep") == "last" else f"epoch {kept_epoch}"
    if kept_epoch is None:
        return " ".join([*sentences, f"{ran}."])
    if kept_epoch == 0 or phase_2.get("share") == 0:
        return " ".join([*sentences, f"{ran} and kept none of them."])
    if "share" in phase_2:
        interpolated = f"weights that lie {100 * phase_2['share']:.0f} % of the way from head only to {kept_weights}"
        return " ".join([*sentences, f"{ran} and kept {interpolated}, the best on validation."])
    best = "" if phase_2.get("keep") == "last" else ", the best on validation"
    return " ".join([*sentences, f"{ran} and kept {kept_weights}{best}."])


def _epochs(number: int) -> str:
    return f"{number} epoch{'s' if number != 1 else ''}"


def chosen_on_validation(head: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """What was chosen on validation in this run, as a phrase."""
    phase_2 = metrics.get("phase_2", {})
    first, second = head["epochs"] > 0, phase_2.get("keep") == "best"
    things = []
    if first and second:
        things.append("the epochs of both phases")
    elif first or second:
        things.append(f"the epoch of phase {1 if first else 2}")
    things += ["the interpolation"] if "share" in phase_2 else []
    things.append("the temperature")
    things += ["the threshold"] if (metrics.get("operating") or {}).get("promise") else []
    return ", ".join(things[:-1]) + " and " + things[-1] if len(things) > 1 else things[0]

"""How the answer of a study looks: its tables in words, its pictures, its page."""

from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd

from thaw.formats import DASH
from thaw.report.drawing import COLOURS, GREY, INK, LINE, NETWORKS, canvas, data_uri, png_of, tidy
from thaw.statistics.studies import SPREAD, Run

ARM_COLOURS = ("#d9642a", "#b3372f", "#7a5195", "#3f7fb5", "#7b8794")


def readable(table: pd.DataFrame, percent: Sequence[str] = ()) -> list[dict[str, str]]:
    """A table in words: mean and spread in one cell, an interval behind its mean; `percent` names shares."""
    rows = []
    for _, values in table.iterrows():
        row = {}
        for column in table.columns:
            if column.endswith((SPREAD, "_low", "_high")):
                continue
            text = _written(values[column], column in percent, column.startswith("gain") or "over_" in column)
            spread, low, high = (values.get(f"{column}{end}") for end in (SPREAD, "_low", "_high"))
            if spread is not None and not pd.isna(spread):
                text += f" ± {_written(spread, column in percent)}"
            if low is not None and not pd.isna(low):
                signed = (_written(each, column in percent, True) for each in (low, high))
                text += " [{}, {}]".format(*signed)
            row[column.replace("_", " ")] = text
        rows.append(row)
    return rows


def _written(value: Any, percent: bool, signed: bool = False) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return DASH
    if not isinstance(value, (float, np.floating)):
        return str(value)
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f}" if percent else f"{value:{sign}.3f}"


def draw_curve(table: pd.DataFrame) -> bytes:
    """Accuracy and AUC against the share of labels, both networks, with the spread over seeds, as PNG."""
    from matplotlib.ticker import PercentFormatter

    figure = canvas(10, 4.2)
    for axes, measure in zip(figure.subplots(1, 2), ("accuracy", "auc"), strict=True):
        tidy(axes)
        for network in NETWORKS:
            shares = [float(share) for share in table["share"]]
            means = table[f"{network}_{measure}"]
            spreads = table[f"{network}_{measure}{SPREAD}"].fillna(0)
            style: dict[str, Any] = {"color": COLOURS[network], "label": NETWORKS[network]}
            axes.errorbar(shares, means, yerr=spreads, marker="o", markersize=5, capsize=3, linewidth=1.8, **style)
        axes.set_xscale("log")
        axes.set_xticks(shares, [f"{100 * share:g} %" for share in shares], minor=False)
        axes.minorticks_off()
        axes.set_xlabel("share of the training labels", color=INK)
        axes.set_title("AUC" if measure == "auc" else measure, loc="left", fontsize=10.5, color=INK)
        if measure == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
            axes.legend(frameon=False)
    figure.tight_layout()
    return png_of(figure)


def draw_ablation(runs: Sequence[Run], table: pd.DataFrame) -> bytes:
    """Validation accuracy per epoch of phase 2 with the spread over seeds, and how far each arm moved, as PNG."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

    figure = canvas(11, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    tidy(left)
    tidy(right)
    arms = list(dict.fromkeys(run.setting for run in runs))
    colours = dict(zip(arms, ARM_COLOURS, strict=False))
    for arm in arms:
        histories = pd.concat([run.history for run in runs if run.setting == arm])
        by_epoch = histories.groupby("epoch")["val_accuracy"].agg(["mean", "std"]).fillna(0)
        left.plot(by_epoch.index, by_epoch["mean"], color=colours[arm], marker="o", markersize=3.5, label=arm)
        low, high = by_epoch["mean"] - by_epoch["std"], by_epoch["mean"] + by_epoch["std"]
        left.fill_between(by_epoch.index, low, high, color=colours[arm], alpha=0.15, linewidth=0)
    left.set_xlabel("epoch of phase 2", color=INK)
    left.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    left.set_title("accuracy on validation", loc="left", fontsize=10.5, color=INK)
    left.legend(frameon=False, fontsize=9)
    moved = table.set_index("arm").loc[arms]
    right.scatter(moved["distance"], moved["accuracy"], color=[colours[arm] for arm in arms], s=60, zorder=3)
    right.set_xscale("log")
    right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    right.xaxis.set_minor_formatter(NullFormatter())
    right.set_xlabel("distance moved (share of weights)", color=INK)
    right.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    right.set_title("accuracy on test against forgetting", loc="left", fontsize=10.5, color=INK)
    figure.tight_layout()
    return png_of(figure)


def draw_differences(table: pd.DataFrame) -> bytes:
    """How many points of test accuracy each arm is over the recipe, with its interval, as PNG."""
    from matplotlib.ticker import PercentFormatter

    compared = table.dropna(subset=["over_recipe"])
    figure = canvas(9, 1.2 + 0.4 * len(compared))
    axes = figure.subplots()
    tidy(axes)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.axvline(0, color=GREY, linewidth=1.2)
    places = range(len(compared))
    middle = compared["over_recipe"]
    sides = [middle - compared["over_recipe_low"], compared["over_recipe_high"] - middle]
    axes.errorbar(middle, places, xerr=sides, fmt="o", markersize=6, capsize=3, color=COLOURS["finetuned"])
    axes.set_yticks(places, compared["arm"].tolist())
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    axes.set_xlabel("points of test accuracy over the recipe, with 95 % interval", color=INK)
    figure.tight_layout()
    return png_of(figure)


def page(title: str, about: Sequence[str], tables: dict[str, list[dict[str, str]]], figures: dict[str, bytes]) -> str:
    """One HTML text that needs no other file and no network."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = resources.files(__package__).joinpath("study.html.jinja").read_text(encoding="utf-8")
    images = {name: data_uri(png) for name, png in figures.items()}
    return environment.from_string(template).render(title=title, about=about, tables=tables, figures=images)

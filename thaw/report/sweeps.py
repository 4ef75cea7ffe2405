"""The results of a sweep as a formatted table."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from thaw.formats import DASH, change, in_percent, score
from thaw.statistics.sweeps import SPREAD

if TYPE_CHECKING:
    import pandas as pd

Writer = Callable[[float], str]
# Column: its title, the formats of its mean and its spread, and the unit after both.
SHOWN: dict[str, tuple[str, Writer, Writer, str]] = {
    "val_loss": ("validation loss", score, score, ""),
    "head_accuracy": ("head only", in_percent, in_percent, " %"),
    "accuracy": ("fine-tuned", in_percent, in_percent, " %"),
    "gain": ("gain", lambda gain: change(gain, "percent"), in_percent, " points"),
    "auc": ("AUC", score, score, ""),
    "minutes": ("minutes", "{:.1f}".format, "{:.1f}".format, ""),
}


def readable(table: "pd.DataFrame") -> list[dict[str, str]]:
    """The formatted table: a dict for each setting, from titles to values."""
    rows = []
    for setting, values in table.iterrows():
        row = {"setting": str(setting), "seeds": f"{values['seeds']:.0f}"}
        for column, (title, mean_of, spread_of, unit) in SHOWN.items():
            mean, spread = float(values[column]), float(values[column + SPREAD])
            beside = "" if spread != spread else f" ± {spread_of(spread)}"
            row[title] = DASH if mean != mean else f"{mean_of(mean)}{beside}{unit}"
        if values["same"]:
            row["gain"] = "not kept"
        rows.append(row)
    return rows

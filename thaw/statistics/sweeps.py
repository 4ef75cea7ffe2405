"""The results of a sweep: each setting over its seeds as a table, and the best setting."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

FIGURES = ("val_loss", "head_accuracy", "accuracy", "gain", "auc", "minutes")  # columns of the arms
SPREAD = " spread"


def by_setting(arms: "pd.DataFrame") -> "pd.DataFrame":
    """A row for each setting in the order of the arms: the number of seeds, and mean and spread of
    each figure.

    The spread is the standard deviation, and missing for a single seed. `same`: no seed kept
    anything of phase 2.
    """
    groups = arms.groupby("setting", sort=False)
    means, spreads = (getattr(groups[list(FIGURES)], name)() for name in ("mean", "std"))
    table: pd.DataFrame = means.join(spreads.add_suffix(SPREAD))
    table.insert(0, "seeds", groups.size())
    table["same"] = groups["same"].all()
    return table


def best(table: "pd.DataFrame") -> str:
    """The setting with the lowest validation loss among those with most seeds; the test is not
    used."""
    whole = table[table["seeds"] == table["seeds"].max()]
    return str(whole["val_loss"].idxmin())

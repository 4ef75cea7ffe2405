"""What a sweep found: each setting over its seeds as a table, and the best one."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

FIGURES = ("val_loss", "head_accuracy", "accuracy", "gain", "auc", "minutes")  # columns of the arms
SPREAD = " spread"


def by_setting(arms: "pd.DataFrame") -> "pd.DataFrame":
    """A row for each setting in the order of the arms: how many seeds, and of every number mean and spread over them.

    The spread is the standard deviation, and missing for a single seed. `same`: no seed kept anything of phase 2.
    """
    groups = arms.groupby("setting", sort=False)
    means, spreads = (getattr(groups[list(FIGURES)], name)() for name in ("mean", "std"))
    table: pd.DataFrame = means.join(spreads.add_suffix(SPREAD))
    table.insert(0, "seeds", groups.size())
    table["same"] = groups["same"].all()
    return table


def best(table: "pd.DataFrame") -> str:
    """The setting with the lowest loss on validation, of those with most seeds; the test pictures have no say."""
    whole = table[table["seeds"] == table["seeds"].max()]
    return str(whole["val_loss"].idxmin())

"""A data set as the studies in benchmarks/ have it, without pictures."""

from functools import cache

import pandas as pd
import torch

from benchmarks.sizes import DataSet
from thaw.data.pictures import Normaliser, Pictures, Preprocessing, Shape
from thaw.data.splits import assign_splits


@cache
def data_set(pictures: int = 600, groups: int = 0) -> DataSet:
    rows = pd.DataFrame({"path": [f"{n:04}.png" for n in range(pictures)], "label": ["a", "b", "b"] * (pictures // 3)})
    rows["hash"] = rows["path"]
    rows["group"] = [f"g{n % groups}" if groups else "" for n in range(pictures)]
    rows["split"] = assign_splits(rows, 0.375, 0.25, 0)
    preprocessing = Preprocessing(8, 8, "bilinear", (0.5,) * 3, (0.5,) * 3)
    shown = Pictures([], Shape(8, 8, "bilinear", "whole", 1), None, 1)
    targets = torch.zeros(pictures, 2)
    return DataSet("drawn", rows, ["a", "b"], targets, shown, Normaliser(preprocessing, torch.device("cpu")))

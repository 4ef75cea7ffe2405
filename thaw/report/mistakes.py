"""The worst mistakes of the fine-tuned network, as a table and as PNG."""

import io
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from thaw.formats import percent, short
from thaw.report.calibration import probabilities_of
from thaw.report.drawing import COLOURS, GREY, INK, canvas, png_of

SHOWN = 12  # of the worst
BESIDE = 3  # mistakes in a row


def worst_mistakes(predictions: pd.DataFrame, classes: Sequence[str], n: int = SHOWN) -> pd.DataFrame:
    """The fine-tuned network's most confident errors, most confident first.

    Columns: path, label, prediction, confidence (probability of the prediction), head_prediction.
    """
    label = predictions["label"].astype(str)
    prediction = predictions["finetuned_prediction"].astype(str)
    predicted = prediction.map({name: number for number, name in enumerate(classes)}).to_numpy(dtype=np.int64)
    rows = np.arange(len(predictions))
    table = pd.DataFrame(
        {
            "path": predictions["path"].astype(str),
            "label": label,
            "prediction": prediction,
            "confidence": probabilities_of(predictions, "finetuned", classes)[rows, predicted],
            "head_prediction": predictions["head_prediction"].astype(str),
        }
    )
    wrong = table[(label != prediction).to_numpy()]
    return wrong.sort_values(["confidence", "path"], ascending=[False, True]).head(n).reset_index(drop=True)


def mistakes(worst: pd.DataFrame, images: Sequence[bytes]) -> bytes:
    """The worst mistakes as one PNG: each with its true class, what the network said, and its
    path.

    `images` are PNGs of the pictures, each beside its map.
    """
    from thaw.data.pixels import open_image

    if not images:
        figure = canvas(8, 1)
        figure.text(0.5, 0.5, "no mistakes on the test pictures", horizontalalignment="center", color=GREY)
        return png_of(figure)
    rows = math.ceil(len(images) / BESIDE)
    figure = canvas(8, 2.1 * rows)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.995, bottom=0.3 / rows, wspace=0.08, hspace=0.5)
    grid = figure.subplots(rows, BESIDE, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, record, image in zip(grid, worst.to_dict("records"), images, strict=False):
        axes.imshow(open_image(io.BytesIO(image)).convert("RGBA"))
        for line, (text, colour, size) in enumerate(
            (
                (f"true: {short(record['label'], 20)}", INK, 9.5),
                (
                    f"said: {short(record['prediction'], 13)}, {percent(record['confidence'])}",
                    COLOURS["finetuned"],
                    9.5,
                ),
                (short(record["path"], 30), GREY, 7.5),
            )
        ):
            axes.annotate(
                text, (0.5, 0), xycoords="axes fraction", xytext=(0, -13 * line - 4), textcoords="offset points",
                horizontalalignment="center", verticalalignment="top", color=colour, fontsize=size, parse_math=False,
            )  # fmt: skip
    return png_of(figure)

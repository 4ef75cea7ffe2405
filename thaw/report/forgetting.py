"""How far each block moved in phase 2, as PNG."""

import numpy as np
import pandas as pd

from thaw.formats import short
from thaw.report.curves import numbers
from thaw.report.drawing import COLOURS, GREY, INK, canvas, png_of, tidy


def forgetting(blocks: pd.DataFrame, narrow: bool = False) -> bytes:
    """How far phase 2 moved each block, from input to output, as PNG: its weights above, its
    output below.

    `narrow`: for a phone.
    """
    figure = canvas(5 if narrow else 10, 4.6)
    above, below = figure.subplots(2, 1, sharex=True)
    places = np.arange(len(blocks))
    for axes in (above, below):
        tidy(axes)
    above.bar(places, numbers(blocks["distance"]), color=COLOURS["finetuned"], alpha=0.85)
    above.set_ylabel("distance moved\n(share of weights)", color=INK, fontsize=9.5)
    above.set_ylim(bottom=0)
    below.plot(places, numbers(blocks["cka"]), color=COLOURS["finetuned"], linewidth=1.8, marker="o", markersize=4)
    below.axhline(1, color=GREY, linestyle=(0, (4, 2)), linewidth=1.2)
    below.set_ylabel("similarity of output\n(linear CKA)", color=INK, fontsize=9.5)
    below.set_ylim(min(0.0, float(np.nanmin([0.0, *numbers(blocks["cka"])]))), 1.05)
    below.set_xticks(
        places, [short(str(name)) for name in blocks["block"]], rotation=90, fontsize=7.5, parse_math=False
    )
    figure.tight_layout()
    return png_of(figure)

"""The model card: a README.md in the layout of Hugging Face, by which others can judge and use a
model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from thaw.formats import count, escaped, in_percent, percent, score, text
from thaw.report.summary import chosen_on_validation, headline_of
from thaw.statistics.records import same_networks

SPLITS = ("train", "val", "test")
HEADER = """\
---
library_name: thaw
pipeline_tag: image-classification
tags: [image-classification, thaw, {backbone}]
{license}metrics: [accuracy]
---

# {backbone} on {pictures} pictures of {classes} classes

An image classifier {made}.
It tells {names} apart.

## Use

    thaw predict PICTURES --model FOLDER

```python
from thaw import load

model = load("FOLDER")
model.predict(["picture.jpg"])
```

`meta.json` has all that turns a picture into a decision: the rule for its pixels, size, normalisation, views,
temperature and operating point.
"""
LIMITS = """\
## Limits

- The results hold for pictures like those of the test, and for nothing else. The interval says what other test
  pictures of the same kind would change; another training would change more.
- Every picture is given one of the classes, also a picture that shows none of them.
- A picture is called `unsure` where the most probable class has less than {sure}.
- It is called `unlike` where its features are farther from those of the training than {far} of the validation pictures
  are. That finds pictures of something else, not every picture on which the model is wrong.
"""


def card(meta: Mapping[str, Any], manifest: pd.DataFrame, licence: str | None) -> str:
    """The card of a model.

    Args:
        meta: what the package's meta.json says.
        manifest: the pictures that it was trained, chosen and tested on.
        licence: of the model, as its owner names it.
    """
    classes = meta["classes"]
    header = HEADER.format(
        backbone=meta["backbone"],
        made=_made(meta),
        license=f"license: {licence}\n" if licence else "",
        pictures=count(len(manifest)),
        classes=len(classes),
        names=" and ".join([", ".join(map(escaped, classes[:-1])), escaped(classes[-1])]),
    )
    sections = [
        header,
        _data(meta, manifest),
        _recipe(meta),
        _results(meta["results"]),
        _by_class(meta["results"]["classes"]),
        _by_slice(meta["results"]["slices"]),
        _operating(meta["operating"]),
        LIMITS.format(sure=percent(meta["sure"]), far=percent(1 - meta["unlike"]["false_alarms"])),
        _licences(meta, licence),
    ]
    return "\n".join(section for section in sections if section)


def _made(meta: Mapping[str, Any]) -> str:
    if same_networks(meta["results"]):
        return "that thaw trained: a new head on the frozen backbone. A second phase was tried, and not kept"
    if not meta["params"]["head"]["max_epochs"]:
        return "that thaw fine-tuned, the whole network at once from a head with random weights"
    return (
        "that thaw fine-tuned in two phases: a new head on the frozen backbone, then the\n"
        "unfrozen network at a much lower learning rate"
    )


def _data(meta: Mapping[str, Any], manifest: pd.DataFrame) -> str:
    counts = pd.crosstab(manifest["label"], manifest["split"])
    rows = [[label, *(count(counts[split].get(label, 0)) if split in counts else "0" for split in SPLITS)]
            for label in meta["classes"]]  # fmt: skip
    epochs = {"epochs": meta["params"]["head"]["max_epochs"]}
    metrics = {"phase_2": meta["results"].get("phase_2", {}), "operating": meta["operating"]}
    return (
        f"## Data\n\n{_table(['class', *SPLITS], rows)}\n"
        f"Training used `train`. Chosen on `val`: {chosen_on_validation(epochs, metrics)}. No training read `test`.\n"
        f"The hash of the table of pictures is `{meta['data'][:16]}`.\n"
    )


def _recipe(meta: Mapping[str, Any]) -> str:
    params, shape = meta["params"], meta["shape"]
    rows = [
        ["backbone", f"{meta['backbone']}, weights {meta['weights']}"],
        ["pictures", f"{shape['size']} x {shape['size']} pixels, {shape['fit']}, {shape['channels']} channels"],
        *(
            [f"{phase}.{key}", text(value)]
            for phase in ("head", "unfreeze")
            for key, value in params[phase].items()
            if value
        ),
        ["views at prediction", meta["views"]],
        ["temperature", f"{meta['temperature']:.3f}"],
        *([name, version] for name, version in meta["versions"].items()),
    ]
    return f"## Recipe\n\nOptions that are off are left out.\n\n{_table(['', ''], rows)}"


def _results(results: Mapping[str, Any]) -> str:
    head, own = results["head"], results["finetuned"]
    rows = [
        ["accuracy", percent(head["accuracy"]), percent(own["accuracy"])],
        ["balanced accuracy", percent(head.get("balanced_accuracy")), percent(own.get("balanced_accuracy"))],
        ["AUC", score(head.get("auc")), score(own.get("auc"))],
        ["calibration error", percent(head.get("ece")), percent(own.get("ece"))],
    ]
    return (
        f"## Results\n\nOn {count(results['test_pictures'])} test pictures, which nothing before looked at:\n\n"
        f"{_table(['', 'head only', 'this model'], rows)}\n"
        f"{headline_of(results)[1]}\n"
    )


def _by_class(table: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [row["class"], percent(row["precision"]), percent(row["recall"]), percent(row["f1"]), count(row["pictures"])]
        for row in table
    ]
    return f"### By class\n\n{_table(['class', 'precision', 'recall', 'F1', 'pictures'], rows)}"


def _by_slice(table: Sequence[Mapping[str, Any]]) -> str:
    if not table:
        return ""
    rows = [[f"{row['slice']}: {row['value']}", percent(row["accuracy"]), count(row["pictures"])] for row in table]
    return f"### By slice\n\n{_table(['slice', 'accuracy', 'pictures'], rows)}"


def _operating(point: Mapping[str, Any] | None) -> str:
    if point is None:
        return "## Operating point\n\nThe decision is the most probable class.\n"
    rows = [
        [name, percent(point[name]["value"]), _span(point[name])] for name in ("recall", "precision", "specificity")
    ]
    return (
        f"## Operating point\n\nThe decision is {escaped(point['class'])} from a probability of "
        f"{score(point['threshold'])} on. On validation that keeps a {point['promise']} of\n"
        f"{percent(point['at_least'])}; on the test pictures it is:\n\n"
        f"{_table(['', 'value', '95 % interval, %'], rows)}"
    )


def _span(rate: Mapping[str, Any]) -> str:
    return "none" if rate["low"] is None else f"{in_percent(rate['low'])} to {in_percent(rate['high'])}"


def _licences(meta: Mapping[str, Any], licence: str | None) -> str:
    own = f"This model: {licence}. " if licence else "The owner of this model has named no licence for it. "
    return (
        f"## Licences\n\n{own}What was learned from pictures, and the pretrained weights\n"
        f"({meta['backbone']}, {meta['weights']}), may be bound by their licences too.\n"
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([escaped(row[0]), *row[1:]] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

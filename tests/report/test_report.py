"""Laws of the report: an honest headline, self-contained, complete, everything escaped."""

import copy
import io
import re
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from thaw.formats import change, escaped
from thaw.report import sections
from thaw.report.calibration import calibration
from thaw.report.confusion import _counts, confusion, confusion_plot
from thaw.report.curves import curves
from thaw.report.data import Notes, data_markdown, data_summary
from thaw.report.drawing import Plot, both_widths, data_uri
from thaw.report.forgetting import forgetting
from thaw.report.mistakes import mistakes, worst_mistakes
from thaw.report.page import html as page_of
from thaw.report.promotion import markdown
from thaw.report.promotion import page as promotion_page
from thaw.report.sections import MOST_VALUES, largest, pairs, with_gain
from thaw.report.summary import (
    chosen_on_validation,
    headline_of,
    kept_epochs,
    metric_rows,
    summary,
    temperatures,
    warning,
)

NAUGHTY = "<script>alert('x')</script>&\"$\\frac{"


def small_png() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((48, 48), 60).save(buffer, "PNG")
    return buffer.getvalue()


def example_metrics(gain: float = 0.033, low: float | None = 0.012, high: float | None = 0.055) -> dict[str, Any]:
    head = {
        "accuracy": 0.799, "balanced_accuracy": 0.741, "auc": 0.806, "f1": 0.655, "ece": 0.071,
        "ece_uncalibrated": 0.034, "temperature": 1.31,
    }  # fmt: skip
    rates = {
        "recall": {"value": 0.512, "low": 0.433, "high": 0.601},
        "precision": {"value": 0.887, "low": 0.8, "high": 0.95},
        "specificity": {"value": None, "low": None, "high": None},
    }
    finetuned = {
        **head,
        "accuracy": 0.799 + gain,
        "balanced_accuracy": 0.782,
        "auc": 0.85,
        "f1": 0.71,
        "ece": 0.052,
    }
    return {
        "test_pictures": 540,
        "phase_2": {"keep": "last", "kept_epoch": 8, "same": False},
        "head": head,
        "finetuned": finetuned,
        "gain": {
            "accuracy": gain, "low": low, "high": high,
            "auc": 0.044, "auc_low": 0.02, "auc_high": 0.066,
        },
        "operating": {
            "promise": "precision", "at_least": 0.9, "head": None, "finetuned": {"threshold": 0.617, **rates},
        },
        "forgetting": {"distance": 0.047, "cka": 0.931, "kept": 0.723, "kl": 0.211},
    }  # fmt: skip


def example(
    classes: list[str], test: int = 300, head_epochs: int = 60, groups: bool = True, seed: int = 0
) -> dict[str, Any]:
    """All that html() wants, with two slices; the fine-tuned network is the better one."""
    random = np.random.default_rng(seed)
    number = len(classes)
    labels = random.choice(number, size=test, p=np.arange(number, 0, -1) / np.arange(1, number + 1).sum())
    frame: dict[str, Any] = {
        "path": [f"images/cell{index:04}.png" for index in range(test)],
        "label": [classes[label] for label in labels],
        **({"group": [f"block-{index // 60}" for index in range(test)]} if groups else {}),
        "wafer": random.choice(["mono", "poly"], size=test),
        "shift": random.choice([1, 2, 3], size=test),
    }
    for network, skill in (("head", 1.2), ("finetuned", 1.9)):
        logits = random.normal(size=(test, number))
        logits[np.arange(test), labels] += skill
        odds = np.exp(1.4 * logits)
        odds /= odds.sum(axis=1, keepdims=True)
        frame[f"{network}_prediction"] = [classes[k] for k in odds.argmax(axis=1)]
        for k, name in enumerate(classes):
            frame[f"{network}_p_{name}"] = odds[:, k]
    predictions = pd.DataFrame(frame)
    head_epoch = np.arange(1, head_epochs + 1)
    fall = np.exp(-head_epoch / 12)
    head_history = pd.DataFrame(
        {
            "epoch": head_epoch,
            "learning_rate": 1e-3,
            "train_loss": 0.40 + 0.3 * fall + random.normal(scale=0.004, size=head_epochs),
            "val_loss": 0.45 + 0.25 * fall + random.normal(scale=0.006, size=head_epochs),
            "val_accuracy": 0.80 - 0.12 * fall + random.normal(scale=0.005, size=head_epochs),
        }
    )
    unfreeze_history = pd.DataFrame(
        {
            "epoch": range(9),
            "learning_rate": [None, *[1e-4] * 8],
            "train_loss": [None, 0.42, 0.38, 0.34, 0.31, 0.28, 0.26, 0.25, 0.24],
            "val_loss": [0.45, 0.43, 0.40, 0.385, 0.38, 0.37, 0.375, 0.37, 0.372],
            "val_accuracy": [0.80, 0.81, 0.825, 0.83, 0.84, 0.845, 0.842, 0.847, 0.846],
        }
    )
    networks = ["head", "finetuned"]
    splits = ["train"] * 3 * test + ["val"] * test + ["test"] * test
    manifest = pd.concat([predictions[[c for c in frame if "_p" not in c]]] * 5, ignore_index=True)
    manifest["split"] = splits
    manifest["path"] = [f"images/{index}.png" for index in range(len(manifest))]
    manifest["hash"] = [f"{index:064x}" for index in range(len(manifest))]
    if groups:
        manifest["group"] = [f"block-{index // 60}" for index in range(len(manifest))]
    return {
        "title": "ELPV solar cells, efficientnet_lite0",
        "metrics": example_metrics(),
        "head_figures": {"epochs": head_epochs, "kept_epoch": head_epochs // 2},
        "head_history": head_history,
        "unfreeze_history": unfreeze_history,
        "predictions": predictions,
        "classes_table": pd.DataFrame(
            [
                {
                    "model": n,
                    "class": c,
                    "precision": 0.8,
                    "recall": 0.7 + 0.05 * (n != "head"),
                    "f1": 0.75,
                    "pictures": 20,
                }
                for n in networks
                for c in classes
            ]
        ),
        "slices_table": pd.DataFrame(
            [
                {
                    "model": n,
                    "slice": s,
                    "value": v,
                    "accuracy": 0.81 + 0.02 * (n != "head"),
                    "balanced_accuracy": 0.79,
                    "precision": 0.7,
                    "recall": 0.65,
                    "pictures": 150,
                }
                for n in networks
                for s, v in (("wafer", "mono"), ("wafer", "poly"), ("shift", 1), ("shift", 2), ("shift", 3))
            ]
        ),
        "blocks_table": pd.DataFrame(
            {"block": ["stem", "block1", "block2"], "distance": [0.01, 0.05, 0.08], "cka": [0.99, 0.95, 0.85]}
        ),
        "classes": classes,
        "slices": ["wafer", "shift"],
        "manifest": manifest,
        "pictures": lambda paths: [small_png() for _ in paths],
        "params": {
            "seed": 7,
            "prepare": {"size": 224, "split": {"val": 0.15, "test": 0.2}, "group": True},
            "embed": {"views": "square"},
            "head": {"learning_rate": 1e-3, "patience": 10},
            "unfreeze": {"blocks": "all", "ratio": 10.0, "epochs": 8, "keep": [5, 6], "weights": None},
        },
        "versions": {"python": "3.11.7", "torch": "2.14.1", "torchvision": "0.29.1", "thaw": "0.1.0"},
        "data_hash": "9f86d081884c7d659a2feaa0c55ad015.dir",
    }


def html(draw: bool = False, **values: Any) -> str:
    """The page of a run, made as tasks/report.py does, without plots: for laws about its words."""
    metrics, predictions, classes = (values[name] for name in ("metrics", "predictions", "classes"))
    empty = Plot(b"", b"")
    plots = (
        {
            "curves": both_widths(partial(curves, values["head_history"], values["unfreeze_history"])),
            "confusion": confusion_plot(predictions, classes),
            "calibration": both_widths(partial(calibration, predictions, classes, temperatures(metrics))),
            "forgetting": both_widths(partial(forgetting, values["blocks_table"])),
        }
        if draw
        else dict.fromkeys(("curves", "confusion", "calibration", "forgetting"), empty)
    )
    worst = worst_mistakes(predictions, classes)
    uses = chosen_on_validation(values["head_figures"], metrics)
    parts = [
        sections.metrics_section(metrics, predictions, values["manifest"], classes, values.get("deciding")),
        sections.curves_section(plots["curves"], metrics, values["head_figures"], values["unfreeze_history"]),
        sections.confusion_section(plots["confusion"], classes),
        sections.calibration_section(plots["calibration"], metrics),
        sections.operating_section(metrics, classes),
        sections.forgetting_section(plots["forgetting"], metrics),
        sections.mistakes_section(worst, values["pictures"](list(worst["path"])), predictions),
        sections.classes_section(values["classes_table"], metrics),
        sections.slices_section(values["slices_table"], metrics, classes),
        sections.data_section(values["manifest"], classes, values["slices"], values.get("notes", Notes()), uses),
        sections.settings_section(values["params"], values["versions"], values["data_hash"]),
    ]
    return page_of(values["title"], sections.top(metrics, predictions), [part for part in parts if part])


class Outline(HTMLParser):
    """Collects tags, addresses and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action"}]

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append(" ".join(data.split()))


@pytest.fixture(scope="module")
def page() -> str:
    return html(draw=True, **example(["functional", "defective"]))


def test_report_needs_nothing_from_outside(page: str) -> None:
    outline = Outline(page)
    assert len([a for a in outline.addresses if a.startswith("data:image/png;base64,")]) == 2 * 4 + 12
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in outline.addresses)
    assert not re.search(r"https?://|//[a-z]|@import|url\(", re.sub(r"data:image/png;base64,[\w+/=]+", "", page))
    assert not {"script", "link", "iframe", "object"} & set(outline.tags)


def test_report_shows_operating_point_temperature_and_forgetting(page: str) -> None:
    section = re.search(r'<section id="operating">.*?</section>', page, flags=re.DOTALL)
    assert section
    text = " ".join(re.sub(r"<[^>]+>", " ", section[0]).split())
    assert "a precision of at least 90.0 %." in text
    assert "fine-tuned threshold 0.617 recall (sensitivity) 51.2 % 43.3 % to 60.1 % precision 88.7 %" in text
    assert "80.0 % to 95.0 % specificity – no interval" in text
    assert "No threshold keeps this promise on validation for the other network." in text
    assert "fine-tuned 1.31" in page
    assert "the same of 1000 classes for 72.3 %" in " ".join(page.split())


@pytest.mark.parametrize("by", ["cost", "auc"])
def test_the_figure_that_decides_comes_first_in_the_report_with_its_interval_and_once(by: str) -> None:
    deciding = {
        "by": by,
        "unit": "score",
        "before": 0.612,
        "after": 0.499,
        "change": -0.113,
        "low": -0.2,
        "high": -0.04,
    }
    shown = html(**example(["functional", "defective"]), deciding=deciding | {"floor": -0.1})
    table = shown.split('<table class="metrics">')[1].split("</table>")[0]
    names = re.findall(r'<th scope="row">(.*?)</th>', table)
    first = " ".join(re.sub(r"<[^>]+>", " ", table.split("<tbody>")[1].split("</tr>")[0]).split())
    assert names[:2] == [{"cost": "mean cost of a picture", "auc": "AUC"}[by], "accuracy"]
    assert len(names) == len(set(names))
    assert "0.612 0.499 −0.113 −0.200 to −0.040 decides whether a new model" in first
    assert ('class="good"' if by == "cost" else 'class="bad"') in table.split("</tr>")[1]


def test_the_report_fits_a_phone_and_a_dark_screen(page: str) -> None:
    assert page.count('<source media="(max-width: 600px)" srcset="data:image/png;base64,') == 4
    assert "prefers-color-scheme: dark" in page
    assert all(
        opened.endswith('<div class="wide">') for opened in re.split(r"<table(?! class=\"settings\")", page)[:-1]
    )
    light, dark = (
        set(re.findall(r"(--[\w-]+): #", block)) for block in re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    )
    assert light == dark


def test_every_link_of_the_report_has_its_target(page: str) -> None:
    anchors = [a[1:] for a in Outline(page).addresses if a.startswith("#")]
    assert anchors
    assert all(f'id="{anchor}"' in page for anchor in anchors)


def test_same_input_gives_the_same_report() -> None:
    given_input = example(["a", "b"], test=60)
    picture = small_png()
    given_input["pictures"] = lambda paths: [picture] * len(paths)
    assert html(draw=True, **given_input) == html(draw=True, **copy.deepcopy(given_input))


def test_user_strings_are_escaped() -> None:
    classes = [NAUGHTY, "<b>other"]
    values = example(classes, test=60)
    renamed = {"wafer": NAUGHTY + "slice"}
    values["predictions"] = values["predictions"].rename(columns=renamed)
    values["predictions"]["path"] = [f"{path}<img src=x>" for path in values["predictions"]["path"]]
    values["manifest"] = values["manifest"].rename(columns=renamed).assign(shift=NAUGHTY + "value")
    values["slices"] = [renamed["wafer"], "shift"]
    values["slices_table"] = values["slices_table"].assign(slice=NAUGHTY, value=NAUGHTY)
    values["params"] = {NAUGHTY: {NAUGHTY: NAUGHTY}, "loose": [NAUGHTY]}
    values["versions"] = {NAUGHTY: NAUGHTY}
    values.update(title=NAUGHTY, data_hash=NAUGHTY)
    text = html(**values)
    outline = Outline(text)
    assert not {"script"} & set(outline.tags)
    assert "<b>other" not in text
    assert "<img src=x" not in text
    assert sum(NAUGHTY in words for words in outline.words) >= 10


def test_report_shows_every_class_and_slice() -> None:
    classes = [f"class number {k}" for k in range(20)]
    values = example(classes)
    text = html(**values)
    sections = dict(re.findall(r'<section id="(\w+)">(.*?)</section>', text, flags=re.DOTALL))
    for name in classes:
        assert f">{name}<" in sections["classes"]
        assert f">{name}<" in sections["data"]
    for record in values["slices_table"].to_dict("records"):
        assert f">{record['slice']}<" in sections["slices"]
        assert f">{record['value']}<" in sections["slices"]
        assert f">{record['value']}<" in sections["data"]


def test_report_shows_every_parameter_version_and_the_hash_of_the_data(page: str) -> None:
    words = Outline(page).words
    for name, shown in (
        ("split.val", "0.15"),
        ("ratio", "10"),
        ("keep", "5, 6"),
        ("weights", "–"),
        ("seed", "7"),
    ):
        assert words[words.index(name) + 1] == shown
    for text in ("torch", "2.14.1", "9f86d081884c7d659a2feaa0c55ad015.dir"):
        assert text in words


def notes() -> Notes:
    left_out = [(f"notes/{number}.txt", "no picture") for number in range(1200)] + [(NAUGHTY, "a hidden file")]
    return Notes([f"2 pictures have an identical twin {NAUGHTY}"], left_out, [("broken.png", "cut off")])


def test_warnings_and_what_was_left_out_are_on_the_page_and_in_the_ui() -> None:
    values = example(["a", "b"], test=60)
    assert "left out" not in html(**values)
    section = re.search(r'<section id="data">.*?</section>', html(**values, notes=notes()), flags=re.DOTALL)
    assert section
    words = Outline(section[0]).words
    assert f"2 pictures have an identical twin {NAUGHTY}" in words
    assert words[words.index("1,201 files left out") :][4:10] == [
        "no picture", "1,200", "notes/0.txt, notes/1.txt, notes/2.txt …", "a hidden file", "1", NAUGHTY,
    ]  # fmt: skip
    assert words[words.index("1 file in quarantine") :][4:7] == ["cut off", "1", "broken.png"]
    shown = data_markdown(values["manifest"], values["classes"], notes())
    assert "| **all pictures** | 180 | 60 | 60 | 300 |" in shown
    assert "### Warnings\n\n- 2 pictures have an identical twin \\<script\\>" in shown
    assert "| no picture | 1,200 | notes/0.txt, notes/1.txt, notes/2.txt … |" in shown
    assert "### 1 file in quarantine" in shown
    assert "###" not in data_markdown(values["manifest"], values["classes"], Notes())


def test_data_summary_counts_every_picture_and_group_once(page: str) -> None:
    words = Outline(page).words
    assert words[words.index("all pictures") :][1:5] == ["900", "300", "300", "1,500"]
    assert words[words.index("groups") :][1:5] == ["15", "5", "5", "25"]
    values = example(["functional", "defective"])
    blocks = data_summary(values["manifest"], values["classes"], values["slices"])["blocks"]
    assert [name for name, _, _ in blocks] == ["class", "wafer", "shift"]
    for name, rows, _ in blocks:
        counts = values["manifest"]["label" if name == "class" else name].astype(str).value_counts()
        for value, cells in rows:
            *splits, everything = (int(cell.replace(",", "")) for cell in cells)
            assert sum(splits) == everything == counts.pop(value)
        assert not len(counts)


@settings(deadline=None)
@given(
    gain=st.floats(-0.5, 0.2),
    down=st.floats(0, 0.3),
    up=st.floats(0, 0.3),
)
def test_only_an_interval_that_excludes_zero_is_called_a_gain_or_a_loss(gain: float, down: float, up: float) -> None:
    low, high = gain - down, gain + up
    verdict, sentence = headline_of(example_metrics(gain, low, high))
    assert (verdict == "gain") == ("raised" in sentence) == (low > 0)
    assert (verdict == "loss") == ("lowered" in sentence) == (high < 0)
    assert ("includes zero" in sentence) == (low <= 0 <= high)


def test_interval_that_includes_zero_is_not_called_a_gain_anywhere() -> None:
    values = example(["a", "b"], test=60)
    values["metrics"] = example_metrics(0.01, -0.01, 0.03)
    values["metrics"]["gain"].update(auc_low=-0.01)
    text = html(**values)
    assert "raised" not in text
    assert "Phase 2 helped" not in text
    assert 'class="verdict none"' in text
    rows = re.search(r'<section id="metrics">.*?</section>', text, flags=re.DOTALL)
    assert rows is not None
    assert 'class="good"' not in rows[0]


def test_a_missing_interval_is_not_called_a_gain() -> None:
    for missing in (None, float("nan")):
        metrics = example_metrics(0.1, missing, missing)
        assert headline_of(metrics)[0] == "none"
        assert "no evidence" in summary(metrics)


NOT_KEPT = [
    ({"keep": "best", "kept_epoch": 0, "same": True}, "no epoch was better on validation than head only"),
    ({"keep": "last", "kept_epoch": 8, "share": 0.0, "same": True}, "no interpolation between head only"),
]


@pytest.mark.parametrize(("phase_2", "why"), NOT_KEPT)
def test_where_phase_2_was_not_kept_the_page_says_so_and_shows_no_gain(phase_2: dict[str, Any], why: str) -> None:
    values = example(["a", "b"], test=60)
    values["metrics"] = example_metrics(0.0, 0.0, 0.0) | {"phase_2": phase_2}
    values["metrics"]["finetuned"] = values["metrics"]["head"]
    sentence = warning(values["metrics"])
    assert sentence.startswith(f"Phase 2 was not kept: {why}")
    assert "both networks are the same and there is no gain to measure; try unfreeze." in sentence
    text = html(**values)
    words = Outline(text).words
    assert words.count(sentence) == 1
    assert words.index(sentence) < words.index("Metrics")
    assert words[words.index("Difference") :][1:3] == ["–", "both networks are the same"]
    section = re.search(r'<section id="metrics">.*?</section>', text, flags=re.DOTALL)
    assert section
    rows = Outline(section[0]).words
    for name in ("accuracy", "AUC", "ECE"):
        assert rows[rows.index(name) :][3] == "–"
    assert 'class="interval"' not in section[0]
    for name in ("classes", "slices"):
        table = re.search(rf'<section id="{name}">.*?</section>', text, flags=re.DOTALL)
        assert table
        assert "+5.0" not in table[0]
    assert 'class="bar' not in text
    assert "kept none of them." in text
    message = summary(values["metrics"])
    assert message.startswith(f"**{sentence}**")
    assert "| accuracy | 79.9 % | 79.9 % | – | – |" in message


@pytest.mark.parametrize(("before", "way"), [(None, "raise unfreeze.ratio"), ("b", "try class_weights=balanced")])
def test_a_network_that_calls_all_pictures_one_class_is_a_warning_on_page_and_in_ui(
    before: str | None, way: str
) -> None:
    values = example(["a", "b"], test=60)
    assert not warning(values["metrics"])
    values["metrics"]["head"]["only_class"], values["metrics"]["finetuned"]["only_class"] = before, "<b>"
    sentence = warning(values["metrics"])
    assert sentence.startswith("The fine-tuned network calls every test picture '<b>', ")
    assert way in sentence
    words = Outline(html(**values)).words
    assert words.index(sentence) < words.index("Metrics")
    assert escaped(sentence) in summary(values["metrics"])


def test_adapted_statistics_that_are_kept_without_an_epoch_are_a_gain_that_is_measured() -> None:
    metrics = example_metrics() | {"phase_2": {"keep": "best", "kept_epoch": 0, "same": False}}
    assert warning(metrics).startswith("Only the adapted BatchNorm statistics of phase 2 were kept: no epoch")
    assert headline_of(metrics)[0] == "gain"
    assert warning(metrics) in summary(metrics)


@settings(deadline=None)
@given(gain=st.floats(-0.5, 0.5), down=st.floats(0, 0.3), up=st.floats(0, 0.3), keep=st.sampled_from(["best", "last"]))
def test_a_phase_2_that_made_things_worse_is_one_sentence_that_says_how_sure_that_is(
    gain: float, down: float, up: float, keep: str
) -> None:
    metrics = example_metrics(gain, gain - down, gain + up)
    metrics["phase_2"]["keep"] = keep
    sentence = warning(metrics)
    assert bool(sentence) == (gain < 0)
    if gain < 0:
        assert sentence.count(". ") == 0
        assert ("excludes zero" in sentence) == (gain + up < 0)
        assert ("includes zero" in sentence) == (gain + up >= 0)
        assert "worse by" in sentence
        assert ("unfreeze.keep=best" in sentence) == (keep == "last")
        assert sentence in summary(metrics)
    del metrics["phase_2"]  # as older versions wrote them
    assert bool(warning(metrics)) == (gain < 0)


@pytest.mark.parametrize(
    ("head", "phase_2", "sentence"),
    [
        (
            {"epochs": 36, "kept_epoch": 26},
            {"keep": "last", "kept_epoch": 8, "same": False},
            "Phase 1 ran 36 epochs and kept epoch 26, the best on validation; phase 2 starts from it. "
            "Phase 2 ran 8 epochs and kept the last.",
        ),
        (
            {"epochs": 1, "kept_epoch": 1},
            {"keep": "best", "kept_epoch": 3, "same": False},
            "Phase 1 ran 1 epoch and kept epoch 1, the best on validation; phase 2 starts from it. "
            "Phase 2 ran 8 epochs and kept epoch 3, the best on validation.",
        ),
        (
            {"epochs": 0, "kept_epoch": 0},
            {"keep": "last", "kept_epoch": 8, "share": 0.3, "same": False},
            "There was no phase 1: phase 2 starts from a head with random weights. Phase 2 ran 8 epochs and kept "
            "weights that lie 30 % of the way from head only to the last, the best on validation.",
        ),
        (
            {"epochs": 9, "kept_epoch": 4},
            {"keep": "best", "kept_epoch": 0, "same": True},
            "Phase 2 ran 8 epochs and kept none of them.",
        ),
        (
            {"epochs": 9, "kept_epoch": 4},
            {"keep": "last", "kept_epoch": 8, "share": 0.0, "same": True},
            "Phase 2 ran 8 epochs and kept none of them.",
        ),
        ({"epochs": 9, "kept_epoch": 4}, {}, "phase 2 starts from it. Phase 2 ran 8 epochs."),
    ],
)
def test_which_epochs_are_kept_is_said_as_it_happened(
    head: dict[str, int], phase_2: dict[str, Any], sentence: str
) -> None:
    assert kept_epochs(head, phase_2, 8).endswith(sentence)


def test_copies_of_test_pictures_in_other_splits_are_counted() -> None:
    values = example(["a", "b"], test=60, groups=False)
    text = " ".join(html(**values).split())
    assert "No test picture has an identical copy in training or validation" in text
    manifest = values["manifest"]
    test, train = (np.flatnonzero(manifest["split"] == name) for name in ("test", "train"))
    manifest.loc[test[:2], "hash"] = manifest["hash"].iloc[train[0]]
    text = " ".join(html(**values).split())
    assert "2 of the test pictures have an identical copy in training or validation, which flatters both" in text
    assert "No test picture" not in text
    del manifest["hash"]
    assert "identical copy" not in html(**values)


def test_groups_are_called_whole_only_where_they_are() -> None:
    values = example(["a", "b"], test=60)
    text = " ".join(html(**values).split())
    assert "All pictures of a group are in the same split." in text
    manifest = values["manifest"]
    test, train = (np.flatnonzero(manifest["split"] == name) for name in ("test", "train"))
    manifest.loc[test[0], "group"] = manifest["group"].iloc[train[0]]
    text = " ".join(html(**values).split())
    assert "1 group lies in more than one split" in text
    assert "All pictures of a group" not in text


@pytest.mark.parametrize(
    ("epochs", "phase_2", "operating", "sentence"),
    [
        (36, {"keep": "last", "kept_epoch": 8}, True, "choose the epoch of phase 1, the temperature and the threshold"),
        (0, {"keep": "last", "kept_epoch": 8}, False, "choose the temperature"),
        (
            36,
            {"keep": "best", "kept_epoch": 3, "share": 0.5},
            False,
            "choose the epochs of both phases, the interpolation and the temperature",
        ),
        (0, {"keep": "best", "kept_epoch": 3}, False, "choose the epoch of phase 2 and the temperature"),
    ],
)
def test_what_validation_chose_is_what_it_chose(
    epochs: int, phase_2: dict[str, Any], operating: bool, sentence: str
) -> None:
    values = example(["a", "b"], test=60)
    values["head_figures"] = {"epochs": epochs, "kept_epoch": epochs}
    values["metrics"]["phase_2"] = phase_2 | {"same": False}
    if not operating:
        del values["metrics"]["operating"]
    assert f"Validation is used to {sentence}." in " ".join(html(**values).split())


def test_the_page_warns_near_its_headline_where_phase_2_made_things_worse() -> None:
    values = example(["a", "b"], test=60)
    values["metrics"] = example_metrics(-0.02, -0.05, 0.01)
    words = Outline(html(**values)).words
    output = warning(values["metrics"]).replace(" %", "\u00a0%")
    assert output in [text.replace("\u00a0", " ").replace(" %", "\u00a0%") for text in words[: words.index("Metrics")]]


def test_headline_without_an_interval_says_why_and_claims_nothing() -> None:
    metrics = example_metrics(0.02, None, None)
    metrics["gain"]["no_interval"] = "an interval takes 6 groups of test pictures, there are 3"
    assert headline_of(metrics) == (
        "none",
        "Phase 2 moved accuracy from 79.9 % to 81.9 % (+2.0 points), but without an interval this is no evidence of a "
        "change: an interval takes 6 groups of test pictures, there are 3.",
    )


def test_a_figure_without_an_interval_says_why() -> None:
    metrics = example_metrics()
    why = "all pictures of a class are in one group"
    metrics["gain"] |= {"auc": 0.1, "auc_low": None, "auc_high": None, "auc_no_interval": why}
    assert [row["interval"] for row in metric_rows(metrics) if row["name"] == "AUC"] == [f"no interval: {why}"]
    assert f"no interval: {why}" in summary(metrics)


def test_headline_gives_both_accuracies_the_gain_and_its_interval() -> None:
    assert headline_of(example_metrics()) == (
        "gain",
        "Phase 2 raised accuracy from 79.9 % to 83.2 %: +3.3 points, 95 % interval +1.2 to +5.5.",
    )


def test_a_small_change_is_never_rounded_to_zero() -> None:
    assert change(0.0001, "percent") == "+0.010"
    assert change(-0.0004, "score") == "−0.00040"
    assert change(0, "percent") == "0.0"


@pytest.mark.parametrize("undefined", [None, float("nan")])
def test_an_undefined_auc_is_shown_as_a_dash(undefined: float | None) -> None:
    values = example(["a", "b"], test=60)
    metrics = values["metrics"]
    metrics["head"]["auc"] = metrics["finetuned"]["auc"] = undefined
    metrics["gain"].update(auc=undefined, auc_low=undefined, auc_high=undefined)
    text = html(**values)
    words = Outline(text).words
    assert words[words.index("AUC") :][1:4] == ["–", "–", "–"]
    assert "| AUC | – | – | – | – |" in summary(metrics)
    assert not re.search(r"\b(nan|None)\b", " ".join(words))


def test_page_shows_the_largest_of_very_many_values_of_a_slice() -> None:
    sizes = np.random.default_rng(0).permutation(500)
    table = pd.DataFrame([{"slice": "day", "value": f"d{n}", "pictures": n, "model": m} for m in "ab" for n in sizes])
    shown = largest(table)
    for model in "ab":
        kept = shown[shown["model"] == model]["pictures"]
        assert set(kept) == set(range(500 - MOST_VALUES, 500))


def test_summary_holds_headline_and_each_metric() -> None:
    text = summary(example_metrics())
    assert text.startswith("**Phase 2 raised accuracy")
    for row in (
        "| accuracy | 79.9 % | 83.2 % | +3.3 points | +1.2 to +5.5 |",
        "| AUC | 0.806 | 0.850 | +0.044 | +0.020 to +0.066 |",
        "| ECE | 7.1 % | 5.2 % | −1.9 points | – |",
    ):
        assert row in text
    assert "540 test pictures" in text


def test_interval_is_explained_by_groups_only_where_there_are_groups(page: str) -> None:
    single = html(**example(["a", "b"], test=60, groups=False))
    assert "takes whole groups together (5 in the test split)" in " ".join(page.split())
    assert "takes whole groups" not in single
    assert "takes each picture on its own" in single


def test_an_empty_group_is_no_group() -> None:
    values = example(["a", "b"], test=120)
    for frame in (values["predictions"], values["manifest"]):
        frame["group"] = ""
    text = html(**values)
    assert "takes each picture on its own" in text
    assert "groups" not in Outline(text).words
    values["predictions"].loc[:59, "group"] = values["manifest"].loc[:59, "group"] = "block"
    text = " ".join(html(**values).split())
    assert "whole groups together (1 in the test split; a picture without one counts as its own)" in text


def test_an_undefined_number_leaves_its_neighbours_in_the_table() -> None:
    values = example(["a", "b"], test=60)
    for missing in (None, ""):
        table = values["slices_table"].astype({"recall": object})
        table.loc[0, "recall"] = missing
        as_text = table.assign(recall=[value if value == missing else str(value) for value in table["recall"]])
        for frame in (table, as_text):
            rows = with_gain(pairs(frame, ["slice", "value"], ["recall"]), ["recall"])
            assert [row["cells"][0] for row in rows[:2]] == [("–", "65.0 %", "–"), ("65.0 %", "65.0 %", "0.0")]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), n=st.integers(0, 40))
def test_worst_mistakes_are_mistakes_and_the_most_confident_come_first(seed: int, n: int) -> None:
    classes = ["a", "b", "c"]
    predictions = example(classes, test=40, head_epochs=1, seed=seed)["predictions"]
    before = predictions.copy()
    worst = worst_mistakes(predictions, classes, n)
    pd.testing.assert_frame_equal(predictions, before)
    assert (worst["label"] != worst["prediction"]).all()
    assert worst["confidence"].is_monotonic_decreasing
    rows = predictions.set_index("path")
    for record in worst.to_dict("records"):
        row = rows.loc[record["path"]]
        assert row["label"] == record["label"]
        assert row["finetuned_prediction"] == record["prediction"]
        assert row[f"finetuned_p_{record['prediction']}"] == record["confidence"]
    wrong = predictions[predictions["label"] != predictions["finetuned_prediction"]]
    assert len(worst) == min(n, len(wrong))
    left_out = wrong[~wrong["path"].isin(worst["path"])]
    if len(worst) and len(left_out):
        probabilities = [f"finetuned_p_{name}" for name in classes]
        assert left_out[probabilities].max(axis=1).max() <= worst["confidence"].min()


@pytest.mark.parametrize("number", [0, 1, 5, 12])
def test_worst_mistakes_can_be_drawn_for_any_number_of_them(number: int) -> None:
    worst = pd.DataFrame(
        {"path": [NAUGHTY] * number, "label": [NAUGHTY] * number, "prediction": ["b"] * number, "confidence": 0.9}
    )
    drawn = Image.open(io.BytesIO(mistakes(worst, [small_png()] * number)))
    assert drawn.size[0] == 1200
    assert mistakes(worst, [small_png()] * number)[:4] == b"\x89PNG"


def decision(**changes: Any) -> dict[str, Any]:
    """A decision as the comparison of two models writes it."""
    fall = {"part": "shape", "value": "disc", "before": 0.9, "after": 0.8, "change": -0.1, "limit": 0.05}
    accuracy = {"by": "accuracy", "unit": "percent", "before": 0.8, "after": 0.82, "change": 0.02}
    accuracy |= {"low": -0.005, "high": 0.04, "floor": 0.01}
    area = {"by": "auc", "unit": "score", "before": 0.8, "after": 0.82, "change": 0.02}
    area |= {"low": None, "high": None, "floor": None}
    gain = {**accuracy, "margin": 0.01, "sure": 0.7, "figures": [accuracy, area]}
    return {
        "promoted": False,
        "champion": "v2.0.0",
        "reason": "better, but slice shape 'disc' falls",
        "gain": gain | {"test_pictures": 200},
        "falls": [
            fall | {"within": False, "pictures": 40},
            fall | {"part": "class", "value": NAUGHTY, "limit": None, "within": True, "pictures": 4},
        ],
        **changes,
    }


def test_decision_is_told_with_its_reason_and_every_class_and_slice_beside_its_limit() -> None:
    page = markdown(decision())
    assert page.startswith("**Kept: v2.0.0 stays in use**\n\nBetter, but slice shape 'disc' falls.")
    assert "| decides: accuracy | 200 | 80.0 % | 82.0 % | +2.0 (−0.5 to +4.0) | 1.0 |" in page
    assert "| **shape: disc** | **40** | **90.0 %** | **80.0 %** | **−10.0** | **5.0** |" in page
    assert "| also: AUC | 200 | 0.800 | 0.820 | +0.020 (no interval) |  |" in page
    assert "| too few |" in page
    assert markdown(decision(promoted=True)).startswith("**Promoted: this model is in use now**")


def test_decision_that_was_not_carried_out_says_so() -> None:
    for promoted in (True, False):
        assert "nothing was changed" in markdown(decision(promoted=promoted), "would be")
    for promoted, verdict in (
        (True, "**Good enough, and"),
        (False, "**Not shown to be good enough beside v2.0.0, and"),
    ):
        assert markdown(decision(promoted=promoted), "waits").startswith(f"{verdict} waits for a person to say yes**")


def test_what_to_distrust_of_a_decision_is_said() -> None:
    note = "v2.0.0 learned from 12 of today's 200 test pictures, which favours it"
    assert f"\n\n{note}.\n" in markdown(decision(notes=[note]))
    assert ">v2.0.0 learned from 12 of today" in promotion_page("<main></main>", **decision(notes=[note]))


def test_first_decision_has_nothing_to_compare_with() -> None:
    page = markdown({"promoted": True, "reason": "no model was in use", "gain": {}, "falls": []})
    assert "No model was in use." in page
    assert "|" not in page


def test_names_of_users_cannot_break_the_tables_of_markdown() -> None:
    falls = [{**decision()["falls"][0], "part": "a|b", "value": "*x* <script>", "within": True}]
    row = next(line for line in markdown(decision(falls=falls)).splitlines() if "script" in line)
    assert "a\\|b: \\*x\\* \\<script\\>" in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 7


def test_each_mistake_is_shown_with_its_own_picture() -> None:
    values = example(["a", "b"], test=60)
    worst = worst_mistakes(values["predictions"], values["classes"], 3)
    pictures = [path.encode() for path in worst["path"]]
    text = str(sections.mistakes_section(worst, pictures, values["predictions"]).body)
    shown = re.findall(r'<figure><img src="(.*?)" alt="(.*?)">', text)
    assert shown == [(data_uri(path.encode()), path) for path in worst["path"]]


def test_a_network_without_mistakes_is_reported_without_pictures() -> None:
    values = example(["a", "b"], test=60)
    values["predictions"]["finetuned_prediction"] = values["predictions"]["label"]
    assert "made no mistake" in html(**values)


def test_confusion_counts_every_picture_once_in_the_row_of_its_true_class() -> None:
    classes = ["a", "b", "c", "never seen"]
    predictions = example(classes[:3], test=90)["predictions"]
    counts = _counts(predictions, "finetuned", classes)
    assert counts.sum() == 90
    assert counts.sum(axis=1).tolist() == [(predictions["label"] == name).sum() for name in classes]
    assert np.trace(counts) == (predictions["label"] == predictions["finetuned_prediction"]).sum()


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("number", [2, 20, 200])
def test_confusion_can_be_drawn_for_any_number_of_classes(number: int, stacked: bool) -> None:
    classes = [f"a rather long class name {k}" for k in range(number)]
    png = confusion(example(classes, test=120)["predictions"], classes, stacked)
    with Image.open(io.BytesIO(png)) as picture:
        assert (picture.height > picture.width) == stacked
        assert max(picture.size) < 10_000


@pytest.mark.parametrize("classes", [["a", "b"], [f"name {k}" for k in range(8)], [NAUGHTY, "$$"]])
def test_plots_can_be_drawn_for_few_many_and_oddly_named_classes(classes: list[str]) -> None:
    predictions = example(classes, test=120)["predictions"]
    for png in (
        confusion(predictions, classes),
        calibration(predictions, classes, {"head": 0.8, "finetuned": 1.7}),
        forgetting(
            pd.DataFrame({"block": classes, "distance": 0.1, "cka": [float("nan"), *[0.8] * (len(classes) - 1)]})
        ),
    ):
        with Image.open(io.BytesIO(png)) as picture:
            assert picture.format == "PNG"
            assert picture.width > picture.height


def test_class_names_that_look_like_numbers_are_names() -> None:
    values = example(["0", "1"], test=60)
    for column in ("label", "head_prediction", "finetuned_prediction"):
        values["predictions"][column] = values["predictions"][column].astype(int)
    values["classes_table"]["class"] = values["classes_table"]["class"].astype(int)
    values["manifest"]["label"] = values["manifest"]["label"].astype(int)
    assert _counts(values["predictions"], "head", ["0", "1"]).sum() == 60
    words = Outline(html(**values)).words
    assert words[words.index("all pictures") :][1:5] == ["180", "60", "60", "300"]


@pytest.mark.parametrize(("head_epochs", "unfreeze_epochs"), [(1, 0), (1, 1), (100, 8), (3, None)])
def test_curves_can_be_drawn_for_any_length_and_for_a_loss_that_exploded(
    head_epochs: int, unfreeze_epochs: int | None
) -> None:
    values = example(["a", "b"], test=30, head_epochs=head_epochs)
    unfreeze = None if unfreeze_epochs is None else values["unfreeze_history"].head(unfreeze_epochs + 1)
    exploded = values["head_history"].copy()
    exploded.loc[exploded.index[-1], "val_loss"] = float("inf")
    for head in (values["head_history"], exploded):
        with Image.open(io.BytesIO(curves(head, unfreeze))) as picture:
            assert picture.size == (1500, 870)


def test_drawing_needs_no_pyplot_and_importing_needs_no_matplotlib() -> None:
    code = """
import sys
import pandas as pd
from thaw.report import page, sections
from thaw.report.curves import curves
assert "matplotlib" not in sys.modules and "jinja2" not in sys.modules
row = {"epoch": [1], "learning_rate": [1.0], "train_loss": [1.0], "val_loss": [1.0], "val_accuracy": [0.5]}
curves(pd.DataFrame(row), None)
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)

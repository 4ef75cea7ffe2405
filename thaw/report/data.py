"""The data of a run: pictures by class, split and slice, and the notes of prepare."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from thaw.formats import count, escaped, text

MOST_VALUES = 40  # a slice column with more values than this is cut short
MOST_REASONS = 12  # of files left out
MOST_NAMED = 3  # files named beside a reason
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Notes:
    """The notes of prepare; `left_out` and `unreadable` are pairs of path and reason."""

    warnings: Sequence[str] = ()
    left_out: Sequence[tuple[str, str]] = ()
    unreadable: Sequence[tuple[str, str]] = ()


def groups_of(frame: pd.DataFrame) -> pd.Series:
    """The group of each picture that has one; an empty cell means no group."""
    groups = frame["group"] if "group" in frame.columns else pd.Series(index=frame.index, dtype=object)
    groups = groups.dropna().astype(str)
    return groups[groups != ""]


def copies_of(manifest: pd.DataFrame) -> int | None:
    """How many test pictures have an identical file in another split; None if there are no
    hashes."""
    if "hash" not in manifest.columns:
        return None
    test = manifest["split"] == "test"
    return int(manifest.loc[test, "hash"].isin(manifest.loc[~test, "hash"]).sum())


def data_summary(manifest: pd.DataFrame, classes: Sequence[str], slices: Sequence[str]) -> dict[str, Any]:
    """Pictures per split and class, groups per split, pictures per split and value of each
    slice."""
    present = [str(name) for name in manifest["split"].unique()]
    splits = [name for name in SPLITS if name in present] + sorted(set(present) - set(SPLITS))
    split = manifest["split"].astype(str)

    def rows(column: pd.Series, names: Iterable[str]) -> list[tuple[str, list[str]]]:
        table = Counter(zip(column, split, strict=True))
        shown = []
        for name in names:
            numbers = [table[name, s] for s in splits]
            shown.append((name, [count(number) for number in [*numbers, sum(numbers)]]))
        return shown

    blocks = [("class", rows(manifest["label"].astype(str), classes), 0)]
    for name in slices:
        if name not in manifest.columns:
            continue
        column = manifest[name].map(text)
        values = sorted(column.unique())
        blocks.append((name, rows(column, values[:MOST_VALUES]), max(0, len(values) - MOST_VALUES)))
    totals = [int((split == s).sum()) for s in splits]
    grouped = groups_of(manifest)
    groups = [count(grouped[split == s].nunique()) for s in splits] + [count(grouped.nunique())]
    return {
        "splits": splits,
        "blocks": blocks,
        "totals": [count(number) for number in [*totals, sum(totals)]],
        "groups": groups if len(grouped) else [],
        "split_groups": int((split[grouped.index].groupby(grouped).nunique() > 1).sum()),
    }


def by_reason(files: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Files counted by reason, the most common first, with some of their names."""
    paths: dict[str, list[str]] = {}
    for path, reason in files:
        paths.setdefault(reason, []).append(path)
    rows = sorted(paths.items(), key=lambda item: (-len(item[1]), item[0]))
    shown = [
        {
            "reason": reason,
            "files": count(len(of_reason)),
            "such_as": ", ".join(of_reason[:MOST_NAMED]) + (" …" if len(of_reason) > MOST_NAMED else ""),
        }
        for reason, of_reason in rows[:MOST_REASONS]
    ]
    if len(rows) > MOST_REASONS:
        remaining = sum(len(of_reason) for _, of_reason in rows[MOST_REASONS:])
        shown.append({"reason": f"{len(rows) - MOST_REASONS} more reasons", "files": count(remaining), "such_as": ""})
    return shown


def notes_summary(notes: Notes) -> dict[str, Any]:
    """Warnings, and tables of files left out and files in quarantine, ready to show."""
    return {
        "warnings": list(notes.warnings),
        "tables": [
            (f"{count(len(files))} {title}", by_reason(files))
            for title, files in (
                (f"{_files(notes.left_out)} left out", notes.left_out),
                (f"{_files(notes.unreadable)} in quarantine", notes.unreadable),
            )
            if files
        ],
    }


def _files(files: Sequence[tuple[str, str]]) -> str:
    return "file" if len(files) == 1 else "files"


def data_markdown(manifest: pd.DataFrame, classes: Sequence[str], notes: Notes) -> str:
    """The same as Markdown, for a UI."""
    data = data_summary(manifest, classes, [])
    lines = ["| class | " + " | ".join([*data["splits"], "all"]) + " |", "|---|" + "---:|" * (len(data["splits"]) + 1)]
    rows = data["blocks"][0][1]
    lines += [f"| {escaped(name)} | " + " | ".join(numbers) + " |" for name, numbers in rows[:MOST_VALUES]]
    if len(rows) > MOST_VALUES:
        lines.append(f"| and {len(rows) - MOST_VALUES} more classes |")
    lines.append("| **all pictures** | " + " | ".join(data["totals"]) + " |")
    if data["groups"]:
        lines.append("| groups | " + " | ".join(data["groups"]) + " |")
    summary = notes_summary(notes)
    if summary["warnings"]:
        lines += ["", "### Warnings", "", *(f"- {escaped(warning)}" for warning in summary["warnings"])]
    for title, reasons in summary["tables"]:
        lines += ["", f"### {title[0].upper()}{title[1:]}", "", "| reason | files | such as |", "|---|---:|---|"]
        lines += [f"| {escaped(row['reason'])} | {row['files']} | {escaped(row['such_as'])} |" for row in reasons]
    return "\n".join(lines) + "\n"

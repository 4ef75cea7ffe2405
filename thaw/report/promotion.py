"""The decision about a new model: as a section of the report, and as Markdown."""

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from thaw.formats import change, count, escaped, number, percent, score
from thaw.report.drawing import data_uri
from thaw.statistics.records import FIGURES, for_the_better


def page(report: str, changes: bytes = b"", **decision: Any) -> str:
    """The report with a section at its top: `promoted`, `reason`, `gain`, `falls`, and `champion`,
    the model in use.

    `changes` shows pictures that the new model gets wrong and the one in use does not.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = resources.files(__package__).joinpath("promotion.html.jinja").read_text(encoding="utf-8")
    section = environment.from_string(template).render(
        decision
        | {"reason": _capital(decision["reason"]), "notes": [_capital(note) for note in decision.get("notes") or []]}
        | {"rows": rows_of(decision["gain"], decision["falls"]), "changes": data_uri(changes) if changes else ""}
    )
    report = report.replace("<nav>", '<nav>\n    <a href="#promotion">Promotion</a>', 1)
    return report.replace("<main>", f"<main>\n\n{section}", 1)


def _capital(sentence: str) -> str:
    """With a capital first, unless that is the name of a version."""
    return sentence if re.match(r"v\d", sentence) else sentence[:1].upper() + sentence[1:]


def rows_of(gain: Mapping[str, Any], falls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The figures, the deciding one first, then classes and slices, as texts."""
    rows = []
    for place, row in enumerate(gain.get("figures") or []):
        unit, shown = row["unit"], percent if row["unit"] == "percent" else score
        span = f"{change(row['low'], unit)} to {change(row['high'], unit)}" if row["low"] is not None else "no interval"
        limit = (f"{100 * gain['margin']:.1f}" if unit == "percent" else f"{gain['margin']:.3f}") if place == 0 else ""
        least, _, floor = for_the_better(row)
        low = floor is None or floor < -gain["margin"] - 1e-9
        rows.append(
            {"part": "decides" if place == 0 else "also", "value": FIGURES[row["by"]]}
            | {
                "pictures": count(row.get("positives", gain["test_pictures"])),
                "before": shown(row["before"]),
                "after": shown(row["after"]),
            }
            | {"change": change(row["change"], unit), "interval": span, "limit": limit}
            | {"bad": place == 0 and low and not (least or 0) > 0}
        )
    for row in falls:
        most = number(row.get("limit"))
        rows.append(
            {"part": str(row["part"]), "value": str(row["value"]), "pictures": count(row["pictures"])}
            | {"before": percent(row["before"]), "after": percent(row["after"]), "interval": ""}
            | {"change": change(row["change"], "percent"), "bad": not row["within"]}
            | {"limit": "too few" if most is None else f"{100 * most:.1f}"}
        )
    return rows


def markdown(decision: Mapping[str, Any], standing: str = "is") -> str:
    """A promotion's decision as Markdown: the verdict, its reason, what each class and slice lost
    or won.

    `standing`: the model "is" promoted, "would be" in a run that records nothing, or "waits" for a
    person to say so.
    """
    gain, falls = decision.get("gain") or {}, decision.get("falls") or []
    champion = escaped(decision.get("champion") or "the model in use")
    verdict = "Promoted: this model is in use now" if decision.get("promoted") else f"Kept: {champion} stays in use"
    if standing == "waits":
        good = "Good enough" if decision.get("promoted") else f"Not shown to be good enough beside {champion}"
        verdict = f"{good}, and waits for a person to say yes"
    if standing == "would be":
        verdict = f"Would be {verdict[0].lower()}{verdict[1:].split(':')[0]}; nothing was changed"
    reason = escaped(decision.get("reason") or "no reason was given")
    lines = [f"**{verdict}**", "", f"{_capital(reason)}."]
    lines += [f"\n{escaped(_capital(note))}." for note in decision.get("notes") or []]
    if gain:
        lines += [
            "",
            f"| | pictures | {champion} | new model | change | may lose |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for row in rows_of(gain, falls):
            mark = "**" if row["bad"] else ""
            cells = (
                f"{escaped(row['part'])}: {escaped(row['value'])}",
                row["pictures"],
                row["before"],
                row["after"],
                row["change"] + (f" ({row['interval']})" if row["interval"] else ""),
                row["limit"],
            )
            lines.append("| " + " | ".join(f"{mark}{cell}{mark}" if cell else "" for cell in cells) + " |")
        lines += [
            "",
            "Both models classified the same test pictures. Classes are compared by recall, slices by accuracy. "
            "Changes are in points, those of AUC and of cost (lower is better) in their own units, with 95 % "
            "intervals in brackets.",
        ]
    return "\n".join(lines) + "\n"

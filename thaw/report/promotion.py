"""Whether the new model takes the place of the one in use: as a section of the report, and as Markdown."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from thaw.formats import change, count, escaped, number, percent, points


def page(report: str, **decision: Any) -> str:
    """The report with a section at its top: `promoted`, `reason`, `gain`, `falls`, and `champion`, the model in use."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "points": points}
    template = resources.files(__package__).joinpath("promotion.html.jinja").read_text(encoding="utf-8")
    section = environment.from_string(template).render(decision)
    report = report.replace("<nav>", '<nav>\n    <a href="#promotion">Promotion</a>', 1)
    return report.replace("<main>", f"<main>\n\n{section}", 1)


def markdown(decision: Mapping[str, Any], acted: bool = True) -> str:
    """A promotion's decision as Markdown: the verdict, its reason, what each class and slice lost or won."""
    gain, falls = decision.get("gain") or {}, decision.get("falls") or []
    champion = escaped(decision.get("champion") or "the model in use")
    verdict = "Promoted: this model is in use now" if decision.get("promoted") else f"Kept: {champion} stays in use"
    if not acted:
        verdict = f"Would be {verdict[0].lower()}{verdict[1:].split(':')[0]}; nothing was changed"
    reason = escaped(decision.get("reason") or "no reason was given")
    lines = [f"**{verdict}**", "", f"{reason[0].upper()}{reason[1:]}."]
    if gain:
        lines += [
            "",
            f"| | pictures | {champion} | new model | change in points | may lose |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        span = f"{change(gain.get('low'), 'percent')} to {change(gain.get('high'), 'percent')}"
        total = {"part": "accuracy", "value": "all", "pictures": gain.get("test_pictures"), "limit": gain.get("margin")}
        total |= {"change": gain.get("accuracy"), "before": gain.get("before"), "after": gain.get("after")}
        total["within"] = gain.get("low", 0) >= -gain.get("margin", 1) - 1e-9
        for row in [total, *falls]:
            limit = number(row.get("limit"))
            cells = [
                f"{escaped(row.get('part', ''))}: {escaped(row.get('value', ''))}",
                count(row.get("pictures")),
                percent(row.get("before")),
                percent(row.get("after")),
                change(row.get("change"), "percent") + (f" ({span})" if row is total else ""),
                "too few" if limit is None else f"{100 * limit:.1f}",
            ]
            mark = "" if row.get("within", True) else "**"
            lines.append("| " + " | ".join(f"{mark}{cell}{mark}" for cell in cells) + " |")
        lines += [
            "",
            "Both models answered the same test pictures. Of a class the recall counts, of a slice the accuracy; "
            "in brackets is the 95 % interval, and its lower end is what the margin limits.",
        ]
    return "\n".join(lines) + "\n"

"""Results as tables, on a terminal and in a log."""

from typing import TYPE_CHECKING, Any

from thaw.cli.endings import console, say
from thaw.formats import percent, score
from thaw.statistics.records import same_networks

if TYPE_CHECKING:
    from thaw.project.findings import Findings
    from thaw.project.registry import Version
    from thaw.project.study import Answer


def show_outcome() -> None:
    from rich.table import Table

    from thaw.orchestration.story import metric_rows
    from thaw.project import results

    metrics = results.metrics()
    table = Table(title=f"{metrics['test_pictures']} test pictures", title_justify="left")
    for column in ("", "accuracy", "AUC"):
        table.add_column(column)
    for name, row in metric_rows(metrics).items():
        table.add_row(name, row["accuracy"], row["AUC"])
    console().print(table)
    if warning := results.warning():
        say(warning)


def show_versions(versions: "list[Version]") -> None:
    from rich.table import Table

    from thaw.project import withdraw

    def scores(network: dict[str, float | None]) -> str:
        accuracy, auc = network.get("accuracy"), network.get("auc")
        return percent(accuracy) + ("" if auc is None else f"\nAUC {score(auc)}")

    def points(metrics: dict[str, Any]) -> str:
        if same_networks(metrics):
            return "not kept"
        if "gain" not in metrics:
            return "–"
        gain = metrics["gain"]
        if gain["low"] is None:
            return f"{100 * gain['accuracy']:+.1f}"
        return "{:+.1f}\n[{:+.1f}, {:+.1f}]".format(*(100 * gain[key] for key in ("accuracy", "low", "high")))

    table = Table(box=None, padding=(1, 2, 0, 0))
    for column in ("version", "when", "head only", "fine-tuned", "gain, points", "data,\ncommit", "why"):
        table.add_column(column, no_wrap=column != "why")
    for version in versions:
        table.add_row(
            version.name
            + ("\nin use" if version.in_use else "\nwaits" if version.standing == "waiting" else "")
            + ("" if withdraw.is_reproducible(version.name) else "\ndata gone"),
            f"{version.when.astimezone():%Y-%m-%d\n%H:%M}",
            scores(version.metrics.get("head", {})),
            scores(version.metrics.get("finetuned", {})),
            points(version.metrics),
            f"{version.data}\n{version.commit[:7]}",
            version.message.partition(":")[0],
            style="bold" if version.in_use else None,
        )
    console().print(table)


def show_sweep(result: "Findings", name: str) -> None:
    from thaw.report.sweeps import readable

    rows = readable(result.table)
    print_table(name, rows, bold=result.best)
    best = next(row for row in rows if row["setting"] == result.best)
    say(f"Best on validation: {result.best}, on test {best['fine-tuned']} (gain: {best['gain']})")
    say(f"Table:  {result.folder / 'table.csv'}, and plot.png beside it")
    changes = " ".join(f"--set '{change}'" for change in result.arm.overrides)
    say(f"Go on:  dvc exp apply {name}-{result.arm.name}; dvc pull     or: thaw run {changes}")


def show_answer(answer: "Answer") -> None:
    for title, rows in answer.tables.items():
        print_table(title, rows)
    say(f"Report: {answer.folder / 'report.html'}")


def print_table(title: str, rows: list[dict[str, str]], bold: str | None = None) -> None:
    """Print a table: on a terminal as many columns as fit, anywhere else all of them."""
    from itertools import accumulate

    from rich.table import Table

    screen = console()
    widths = [max(len(column), *(len(row[column]) for row in rows)) + 3 for column in rows[0]]
    if not screen.is_terminal:
        screen.width = max(screen.width, sum(widths) + 1)
    fitting = sum(end < screen.width for end in accumulate(widths))
    columns = list(rows[0])
    table = Table(*columns[:fitting], title=title, title_justify="left")
    for row in rows:
        table.add_row(*(row[column] for column in columns[:fitting]), style="bold" if row[columns[0]] == bold else None)
    screen.print(table)
    if columns[fitting:]:
        say(f"No room here for: {', '.join(columns[fitting:])}")

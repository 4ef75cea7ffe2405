"""The command line: `thaw run` trains, `thaw ui` shows all runs, `thaw data` brings the data.

Heavy imports wait until a command needs them: `thaw --help` answers at once, and prefect reads its settings
from the environment only after `thaw.orchestration.server` has set them.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import thaw
from thaw.errors import InputError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State
    from rich.console import Console

    from thaw.project.pin import DataDiffers
    from thaw.project.registry import Version
    from thaw.project.study import Answer
    from thaw.project.sweep import Arm, Outcome

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Fine-tune a pretrained image classifier in two phases: a new head on the frozen backbone, then the "
    "unfrozen network at a much lower learning rate. Every phase is a cached DVC stage and a visible Prefect "
    "task.",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"thaw {thaw.__version__}")
        raise typer.Exit


def _go_to(folder: Path | None) -> None:
    if folder is None:
        return
    try:
        os.chdir(folder)
    except OSError as error:
        typer.echo(f"error: -C {folder}: {error.strerror}; name the folder of a project", err=True)
        raise typer.Exit(2) from None


@app.callback()
def main(
    folder: Annotated[
        Path | None,
        typer.Option("-C", metavar="FOLDER", callback=_go_to, help="Work on the project in FOLDER, not in this one."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """The options before a command."""


@app.command()
def run(
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting in params.yaml first, such as unfreeze.ratio=10; may be repeated.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run every phase, even where nothing changed.")] = False,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="As scheduled runs do: take new pictures first; at the end compare the model with the one in use, "
            "save the run as a DVC experiment and push it to the DVC remote.",
        ),
    ] = False,
) -> None:
    """Train: run all phases, or what changed since the last run, and show what fine-tuning gained.

    Brings the data first if it is missing. Starts a local Prefect server if none runs, and stops it again.
    """
    with _one_sentence_endings():
        from thaw.project import reasons, results

        results.settings_with(overrides or [])  # a typing mistake is told before anything starts
        if not (overrides or record):  # which change what there is to ask
            reasons.ask_early()  # while Prefect is imported, which takes as long
        from thaw.orchestration.server import page, server
        from thaw.project.pin import DataDiffers

        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        console = _console()
        ours = "PREFECT_API_URL" not in os.environ
        with server(say=_say) as api:
            state, last_lines = _retrain(api, console, overrides, force, record)
            error = state.result(raise_on_failure=False)
            if isinstance(error, DataDiffers) and _wants_it_pinned(error):
                _accept()
                state, last_lines = _retrain(api, console, overrides, force, record)
                error = state.result(raise_on_failure=False)
            if not state.is_completed():
                _raise(error, state.message or "the run failed", last_lines)
            _say(f"Done:   {state.message}")
            _show_outcome()
            address = page(api, str(state.state_details.flow_run_id))
        console.print(f"Report: {results.report_page()}", highlight=False, soft_wrap=True)
        console.print(f"Run:    {address}", highlight=False, soft_wrap=True)
        if ours:
            console.print("        (`thaw ui` brings this page back once the server has stopped)", highlight=False)


def _retrain(
    api: str, console: "Console", overrides: list[str] | None, force: bool, record: bool
) -> "tuple[State[Any], list[str]]":
    """Run the flow and show it; how it ended, and the last lines of the phase that was at work then."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.retrain import retrain
    from thaw.orchestration import story
    from thaw.orchestration.server import page
    from thaw.orchestration.terminal import Terminal

    terminal = Terminal(console, lambda run_id: page(api, run_id))
    try:
        # A run would end up to a second later, waiting for its heart to stop.
        with terminal, temporary_settings(set_defaults={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            state = retrain(overrides, force, record, return_state=True)
        assert isinstance(state, State)
    finally:
        if terminal.flow_run_id:
            story.wait_until_told(terminal.flow_run_id)
    return state, list(terminal.last_lines)


def _wants_it_pinned(error: "DataDiffers") -> bool:
    """Whether somebody at a terminal says so."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return typer.confirm(f"{error.difference}. Pin it as it is?")


def _accept() -> None:
    """Pin data/ as it is."""
    from thaw.project import add, pin
    from thaw.project.stage import only_retraining

    with only_retraining("thaw data --accept"):
        add.recover()  # half an add is not what anybody accepts
        pin.accept(_say)


@app.command()
def ui(
    port: Annotated[
        int | None, typer.Option(help="Port of the server, if none runs yet. [default: 4200 or a free one]")
    ] = None,
) -> None:
    """Show all runs in the browser: keeps the Prefect server running until Ctrl-C."""
    with _one_sentence_endings():
        from thaw.orchestration.server import server, ui

        ours = "PREFECT_API_URL" not in os.environ
        with server(port, say=_say) as api:
            typer.echo(f"The runs are at {ui(api)}" + (" until you press Ctrl-C" if ours else ""))
            while ours:
                time.sleep(1)


@app.command()
def schedule(
    name: Annotated[
        str | None, typer.Argument(help="Which schedule, where there are several. Without it weekly.")
    ] = None,
    cron: Annotated[
        str | None, typer.Option(help="When: minute, hour, day, month and weekday, such as '0 3 * * 1'.")
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(help="Of --cron, such as Europe/Berlin; without it that of this machine.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting for the runs of --cron; may be repeated."),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the schedules.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Let a schedule rest.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Let a paused schedule go on.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Forget a schedule.")] = False,
) -> None:
    """Retrain on a schedule: serve the one that --cron gives, and those that exist, until Ctrl-C.

    A paused schedule stays paused, and a schedule stays when nothing serves it.
    """
    with _one_sentence_endings():
        from thaw.orchestration import schedule as schedules

        if sum((bool(cron or timezone or overrides), show, pause, resume, remove)) > 1:
            raise InputError("choose one: --cron (with --timezone and --set), --list, --pause, --resume or --remove")
        if show:
            schedules.show(_say)
        elif pause or resume:
            schedules.set_paused(name, pause, _say)
        elif remove:
            schedules.remove(name, _say)
        else:
            schedules.serve(name, cron, timezone, overrides or [], _say)


Pool = Annotated[str | None, typer.Option(help="The Prefect work pool whose workers train; without it this machine.")]
Parallel = Annotated[
    int | None, typer.Option(min=1, help="Trainings at once on this machine. [default: as many as it carries]")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of all trainings; may be repeated."),
]


@app.command()
def sweep(
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=A,B,C",
            help="Values to try, such as unfreeze.ratio=10,30,100; \\[a, b] is one value; may be repeated.",
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Train every setting with so many seeds.")] = None,
    pool: Pool = None,
    parallel: Parallel = None,
    most: Annotated[int, typer.Option(help="Refuse to start more trainings than this.")] = 50,
) -> None:
    """Train many settings and seeds, each from the last commit; show them side by side, and which one is best.

    Every training becomes a DVC experiment. What several share is computed once. The same command goes on where
    an earlier one was stopped.
    """
    with _one_sentence_endings():
        from thaw.project import sweep as sweeps

        _train_all(sweeps.arms(grid or [], seeds, most), "sweep", pool, parallel)


@app.command()
def seeds(
    count: Annotated[int, typer.Argument(min=1, metavar="N", help="How many seeds.")],
    folds: Annotated[
        int | None, typer.Option(min=2, help="Train each seed on so many folds, which all pictures go through.")
    ] = None,
    changes: Changes = None,
    pool: Pool = None,
    parallel: Parallel = None,
) -> None:
    """Train with N seeds: mean, spread, and the interval of the gain, by slice too."""
    with _one_sentence_endings():
        from thaw.project import study

        _train_all(study.seeds(count, folds, changes or []), "seeds", pool, parallel)


@app.command()
def curve(
    shares: Annotated[str, typer.Option(help="Shares of the training labels.")] = "0.05,0.1,0.25,0.5,1",
    seeds: Annotated[int, typer.Option(min=1, help="Train each share with so many seeds.")] = 3,
    changes: Changes = None,
    pool: Pool = None,
    parallel: Parallel = None,
) -> None:
    """Accuracy and AUC against the share of labels, head only and fine-tuned: whether to label more pictures."""
    with _one_sentence_endings():
        from thaw.project import study

        try:
            numbers = [float(share) for share in shares.split(",")]
        except ValueError:
            raise InputError(f"--shares {shares} is no list of numbers; write it like 0.05,0.25,1") from None
        _train_all(study.curve(seeds, numbers, changes or []), "curve", pool, parallel)


@app.command()
def ablate(
    seeds: Annotated[int, typer.Option(min=1, help="Train each arm with so many seeds.")] = 3,
    options: Annotated[
        bool, typer.Option("--options", help="Instead, each option that is off in the recipe, one at a time.")
    ] = False,
    changes: Changes = None,
    pool: Pool = None,
    parallel: Parallel = None,
) -> None:
    """The recipe against its mistakes: no phase 1, a high rate in phase 2, random weights; gain and forgetting."""
    with _one_sentence_endings():
        from thaw.project import study

        if options:
            _train_all(study.ablation(seeds, changes or [], study.OPTIONS), "options", pool, parallel)
        else:
            _train_all(study.ablation(seeds, changes or []), "ablate", pool, parallel)


def _train_all(arms: "list[Arm]", question: str, pool: str | None, parallel: int | None) -> None:
    """Have all arms trained, and show what they say together."""
    from thaw.orchestration.server import page, server
    from thaw.project import study
    from thaw.project import sweep as sweeps

    if pool and parallel:
        raise InputError("--parallel is for this machine; in a pool each worker's --limit says how many at once")
    wanted = sweeps.sweep(arms, pool is not None)
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    with server(say=_say) as api:
        from flows import sweep as flows_of_sweep

        try:
            state = flows_of_sweep.carry_out(wanted, question, pool, parallel, _say)
        except KeyboardInterrupt:
            typer.echo("Stopped, and with it all arms; the same command goes on.", err=True)
            raise typer.Exit(130) from None
        address = page(api, str(state.state_details.flow_run_id))
    if question == "sweep":
        if found := sweeps.outcome(wanted):
            _show_sweep(found, wanted.name)
    elif answer := study.answer(question, wanted):
        _show_answer(answer)
    _say(f"Run:    {address}")
    if not state.is_completed():
        _raise(state.result(raise_on_failure=False), state.message or f"the {question} failed", [])


@app.command()
def add(
    path: Annotated[Path, typer.Argument(help="A folder of new labelled pictures, in any layout that data/ may have.")],
    new_classes: Annotated[bool, typer.Option("--new-classes", help="Allow classes that data/ has not.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and count only; data/ stays as it is.")] = False,
) -> None:
    """Take new labelled pictures into the data; no picture that is there moves between train, val and test.

    All of them or none. The folder itself is only read, and pictures that are known already are skipped.
    """
    with _one_sentence_endings():
        from thaw.project.add import add

        added = add(path, new_classes, _say, dry_run)
        _say(str(added))
        if added.new and not dry_run:
            _say("data.dvc pins them: `git commit data.dvc` keeps this state of the data, `thaw run` trains with it")


@app.command()
def data(
    accept: Annotated[
        bool, typer.Option("--accept", help="Pin data/ as it is instead: what is new, changed or missing counts.")
    ] = False,
) -> None:
    """Bring the data that data.dvc pins: from the DVC cache or remote, else from its package."""
    with _one_sentence_endings():
        from thaw.project.stage import repro

        if accept:
            _accept()
        else:
            typer.echo(f"data: {repro('data.dvc', on_line=_say)}")


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every metric.")] = False,
) -> None:
    """Show the versions of the model, the newest first: which is in use, what each scored, what it learned from."""
    with _one_sentence_endings():
        from thaw.project import registry

        found = registry.versions()
        if as_json:
            typer.echo(json.dumps([asdict(version) for version in found], indent=2, default=str))
        elif not found:
            typer.echo(registry.FIRST)
        else:
            _show_versions(found)


@app.command()
def promote(version: Annotated[str, typer.Argument(help="Such as v2.0.0; `thaw models` shows all.")]) -> None:
    """Put a version of the model in use, whatever the comparison said."""
    with _one_sentence_endings():
        from thaw.project import registry

        registry.promote(version, "by hand")
        _show_in_use()


@app.command()
def rollback() -> None:
    """Put the version in use that was so before the present one; again, and it goes one further back."""
    with _one_sentence_endings():
        from thaw.project import registry

        registry.rollback()
        _show_in_use()


def _show_in_use() -> None:
    from thaw.project import registry

    version = registry.in_use(registry.versions())
    assert version
    typer.echo(f"{version.name} is in use: `dvc artifacts get . {registry.NAME} --stage {registry.STAGE}` brings it")


def _show_versions(versions: "list[Version]") -> None:
    from rich.table import Table

    def scores(network: dict[str, float | None]) -> str:
        accuracy, auc = network.get("accuracy"), network.get("auc")
        return ("–" if accuracy is None else f"{accuracy:.1%}") + ("" if auc is None else f"\nAUC {auc:.3f}")

    def points(metrics: dict[str, Any]) -> str:
        if metrics.get("phase_2", {}).get("same"):
            return "not kept"
        if "gain" not in metrics:
            return "–"
        return "{:+.1f}\n[{:+.1f}, {:+.1f}]".format(
            *(100 * metrics["gain"][key] for key in ("accuracy", "low", "high"))
        )

    table = Table(box=None, padding=(1, 2, 0, 0))
    for column in ("version", "when", "head only", "fine-tuned", "gain, points", "data,\ncommit", "why"):
        table.add_column(column, no_wrap=column != "why")
    for version in versions:
        table.add_row(
            version.name + ("\nin use" if version.in_use else ""),
            f"{version.when.astimezone():%Y-%m-%d\n%H:%M}",
            scores(version.metrics.get("head", {})),
            scores(version.metrics.get("finetuned", {})),
            points(version.metrics),
            f"{version.data}\n{version.commit[:7]}",
            version.message.partition(":")[0],
            style="bold" if version.in_use else None,
        )
    _console().print(table)


def _say(line: str) -> None:
    print(line, flush=True)


def _console() -> "Console":
    from rich.console import Console

    return Console()


def _raise(error: object, sentence: str, last_lines: list[str]) -> None:
    """End with the error of a failed run, and show the last lines where nobody foresaw it."""
    if isinstance(error, InputError):
        raise error
    if sys.stdout.isatty():
        for line in last_lines:
            print(line, file=sys.stderr)
    raise RunError(sentence)


class RunError(RuntimeError):
    """A phase failed, and the user has read why."""


def _show_outcome() -> None:
    from rich.table import Table

    from thaw.orchestration.story import metric_rows
    from thaw.project import results

    metrics = results.metrics()
    table = Table(title=f"{metrics['test_pictures']} test pictures", title_justify="left")
    for column in ("", "accuracy", "AUC"):
        table.add_column(column)
    for name, row in metric_rows(metrics).items():
        table.add_row(name, row["accuracy"], row["AUC"])
    _console().print(table)
    if warning := results.warning():
        _say(warning)


def _show_sweep(found: "Outcome", name: str) -> None:
    from thaw.report.sweeps import readable

    rows = readable(found.table)
    _print_table(name, rows, bold=found.best)
    best = next(row for row in rows if row["setting"] == found.best)
    _say(f"Best on validation: {found.best}, on test {best['fine-tuned']} (gain: {best['gain']})")
    _say(f"Table:  {found.folder / 'table.csv'}, and plot.png beside it")
    changes = " ".join(f"--set '{change}'" for change in found.arm.overrides)
    _say(f"Go on:  dvc exp apply {name}-{found.arm.name}; dvc pull     or: thaw run {changes}")


def _show_answer(found: "Answer") -> None:
    for title, rows in found.tables.items():
        _print_table(title, rows)
    _say(f"Report: {found.folder / 'report.html'}")


def _print_table(title: str, rows: list[dict[str, str]], bold: str | None = None) -> None:
    """On a terminal the first columns, as many as it has room for; anywhere else all of them."""
    from itertools import accumulate

    from rich.table import Table

    console = _console()
    widths = [max(len(column), *(len(row[column]) for row in rows)) + 3 for column in rows[0]]
    if not console.is_terminal:
        console.width = max(console.width, sum(widths) + 1)
    fitting = sum(end < console.width for end in accumulate(widths))
    columns = list(rows[0])
    table = Table(*columns[:fitting], title=title, title_justify="left")
    for row in rows:
        table.add_row(*(row[column] for column in columns[:fitting]), style="bold" if row[columns[0]] == bold else None)
    console.print(table)
    if columns[fitting:]:
        _say(f"No room here for: {', '.join(columns[fitting:])}")


@contextmanager
def _one_sentence_endings() -> Iterator[None]:
    """Every foreseen end is one sentence; exit code 2 for bad input, 130 for Ctrl-C, 1 for a failed phase."""
    from thaw.orchestration.server import ServerError
    from thaw.project.stage import StageError

    try:
        from thaw.project import workspace

        workspace.check()
        sys.path.insert(0, str(workspace.ROOT))  # the flows that run are those of the project
        yield
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except (RunError, StageError, ServerError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("Stopped; `thaw run` goes on with the phase that was interrupted.", err=True)
        raise typer.Exit(130) from None

"""Many trainings: `thaw sweep`, `seeds`, `curve` and `ablate`, and `worker`, which runs them on
another machine."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thaw.cli.endings import fail, one_sentence_endings, say
from thaw.cli.tables import show_answer, show_sweep
from thaw.errors import InputError

if TYPE_CHECKING:
    from thaw.project.grid import Arm

Pool = Annotated[str | None, typer.Option(help="The Prefect work pool whose workers train; without it this machine.")]
Parallel = Annotated[
    int | None, typer.Option(min=1, help="Trainings at once on this machine.", show_default="as many as it carries")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of all trainings; may be repeated."),
]


def sweep(
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=A,B,C",
            help="Values to try, such as unfreeze.ratio=10,30,100; \\[a, b] is one value; may be repeated.",
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds for each setting.")] = None,
    pool: Pool = None,
    parallel: Parallel = None,
    most: Annotated[int, typer.Option(help="The largest number of trainings to start.")] = 50,
) -> None:
    """Train many settings and seeds, each from the last commit; compare them, and show which one
    is best.

    Every training becomes a DVC experiment. What several share is computed once. After an
    interruption the same command goes on.
    """
    with one_sentence_endings():
        from thaw.project.grid import arms

        _train_all(arms(grid or [], seeds, most), "sweep", pool, parallel)


def seeds(
    count: Annotated[int, typer.Argument(min=1, metavar="N", help="Number of seeds.")],
    folds: Annotated[
        int | None, typer.Option(min=2, help="Number of folds; for each seed, every picture is tested once.")
    ] = None,
    changes: Changes = None,
    pool: Pool = None,
    parallel: Parallel = None,
) -> None:
    """Train with N seeds; show mean, spread, and the interval of the gain, for each slice too."""
    with one_sentence_endings():
        from thaw.project import study

        _train_all(study.seeds(count, folds, changes or []), "seeds", pool, parallel)


def curve(
    shares: Annotated[str, typer.Option(help="Shares of the training labels.")] = "0.05,0.1,0.25,0.5,1",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds for each share.")] = 3,
    changes: Changes = None,
    pool: Pool = None,
    parallel: Parallel = None,
) -> None:
    """Plot accuracy and AUC against the share of labels: whether more labels would help."""
    with one_sentence_endings():
        from thaw.project import study

        try:
            numbers = [float(share) for share in shares.split(",")]
        except ValueError:
            raise InputError(f"--shares {shares} is not a list of numbers; write it like 0.05,0.25,1") from None
        _train_all(study.curve(seeds, numbers, changes or []), "curve", pool, parallel)


def ablate(
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds for each arm.")] = 3,
    options: Annotated[
        bool, typer.Option("--options", help="Instead, try the options that are off in the recipe, one at a time.")
    ] = False,
    changes: Changes = None,
    pool: Pool = None,
    parallel: Parallel = None,
) -> None:
    """Compare the recipe with the mistakes that it avoids: no phase 1, a high rate in phase 2,
    random weights."""
    with one_sentence_endings():
        from thaw.project import study

        if options:
            _train_all(study.ablation(seeds, changes or [], study.OPTIONS), "options", pool, parallel)
        else:
            _train_all(study.ablation(seeds, changes or []), "ablate", pool, parallel)


def worker(
    pool: Annotated[str, typer.Argument(help="The Prefect work pool to work for.")],
    limit: Annotated[int, typer.Option(min=1, help="Number of trainings at once.")] = 1,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="WHEEL", help="The thaw that this project names, if another one is installed."),
    ] = None,
) -> None:
    """Work for a pool, with the thaw and the packages that this project's thaw.yaml names.

    If others are installed here, uv makes an environment for these and keeps it for the next time.
    Start it again after an upgrade of the project.
    """
    with one_sentence_endings():
        from thaw.project import environments, recipe, workspace

        if "PREFECT_API_URL" not in os.environ:
            raise InputError("a worker needs a server: set PREFECT_API_URL, such as http://server:4200/api")
        own = recipe.in_own_repository() and not source
        python = sys.executable if own else str(environments.python_for(workspace.root(), source, say))
        os.environ["PATH"] = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", os.defpath)])
        os.execv(python, [python, "-m", "prefect", "worker", "start", "--pool", pool, "--limit", str(limit)])


def _train_all(arms: "list[Arm]", question: str, pool: str | None, parallel: int | None) -> None:
    """Train all arms, and show the results."""
    from thaw.orchestration.server import page, server
    from thaw.project import findings, study
    from thaw.project import sweep as sweeps

    if pool and parallel:
        raise InputError("--parallel is for this machine; in a pool each worker's --limit says how many at once")
    planned = sweeps.sweep(arms, pool is not None)
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    with server(say=say) as api:
        from flows import sweep as flows_of_sweep

        try:
            state = flows_of_sweep.carry_out(planned, question, pool, parallel, say)
        except KeyboardInterrupt:
            typer.echo("Stopped, with all its trainings; the same command continues.", err=True)
            raise typer.Exit(130) from None
        address = page(api, str(state.state_details.flow_run_id))
    if question == "sweep":
        if findings_of_sweep := findings.outcome(planned):
            show_sweep(findings_of_sweep, planned.name)
    elif answered := study.answer(question, planned):
        show_answer(answered)
    say(f"Run:    {address}")
    if not state.is_completed():
        fail(state.result(raise_on_failure=False), state.message or f"the {question} failed", [])

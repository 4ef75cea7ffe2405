"""`thaw status` and `thaw doctor`."""

import itertools
import json
from dataclasses import asdict
from typing import Annotated

import typer

from thaw.cli.endings import RunError, one_sentence_endings, say


def status(
    check: Annotated[
        bool, typer.Option("--check", help="Only print what needs attention; then the exit code is 1.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every run and version.")] = False,
) -> None:
    """Show the model in use, the data, the schedules with their last and next runs, and the free
    disk space.

    Needs no server. `--check` is for cron and monitoring. It prints one sentence and exits with 1
    if a run is late, never began, failed or was cancelled, if the model is older than
    retrain.oldest, or if less than retrain.disk_gb of disk is free.
    """
    with one_sentence_endings():
        from thaw.orchestration import status as orchestration
        from thaw.project import settings
        from thaw.project import status as module
        from thaw.report.status import lines

        facts = orchestration.gather()
        problems = module.problems(facts, settings.read().retrain)
        if as_json:
            typer.echo(json.dumps(asdict(facts) | {"problems": problems}, indent=2, default=str))
        elif not check:
            for line in lines(module.facts(facts), module.rows(facts)):
                say(line)
            for problem in problems:
                say(f"warning: {problem}")
        if check and problems:
            raise RunError("; ".join(problems))


def doctor() -> None:
    """Check everything that a retraining needs, and name the command that repairs what is
    wrong.

    It looks at the versions that made the results, git, data, the DVC remote, locks, disk, device,
    server and schedules.
    """
    with one_sentence_endings():
        from thaw.orchestration.status import server_and_schedules
        from thaw.project.doctor import examine

        faults = 0
        for finding in itertools.chain(examine(), server_and_schedules()):
            say(str(finding))
            faults += finding.mend is not None
        if faults:
            raise RunError(f"{faults} of these {'need' if faults > 1 else 'needs'} attention")

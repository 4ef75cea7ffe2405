"""The flow that predicts new pictures in a folder, an archive or a table with the model in use.

    python -m flows.predict SOURCE      # once, here; prefect.yaml deploys it to run every day

Pictures that this model has predicted before are left out. New ones become a table in
`predictions/`, which `predictions.dvc` versions; the UI shows them beside what validation lets one
expect.
"""

import sys
from datetime import datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run
from prefect.states import Completed, Failed

from thaw.errors import InputError
from thaw.orchestration import server, story
from thaw.orchestration.run import PhaseFailed, Tasks
from thaw.orchestration.run import predict as predict_new
from thaw.project import overrides as changes
from thaw.project import pipeline, runs
from thaw.project.lock import only_prediction


def name_of_run() -> str:
    """The name of a run: source, model and date."""
    parameters = flow_run.parameters
    return f"{parameters['source']} with {parameters['model']} {datetime.now().astimezone():%m-%d %H:%M}"


@flow(
    name=f"predict {pipeline.project()}",
    flow_run_name=name_of_run,
    on_failure=[story.failed],
    on_crashed=[story.failed],
    persist_result=False,
)
def predict(source: str, model: str = "prod") -> Any:
    """Predict the pictures of a source that have no prediction yet.

    Args:
        source: a folder, an archive or a CSV with a column path, from the project's folder on.
        model: prod, the model in use when the run begins, a version such as v2.0.0, or the folder
            of a package.
    """
    about = {"flow": runs.PREDICT, "name": flow_run.name, "schedule": deployment.name}
    with (
        story.sending(),
        runs.noted(flow_run.id, due=flow_run.scheduled_start_time.isoformat(), **about) as ended,
    ):
        state = _predict(source, model)
        ended(state.name or state.type.value, state.message or "")
        return state


def _predict(source: str, model: str) -> State[Any]:
    try:
        settings = changes.settings_with([])
        with (
            server.ended_without(server.address()),
            only_prediction(flow_run.name, settings.retrain.wait, story.tell),
        ):
            state = Tasks(settings).do("predict", predict_new, source, model)
        return Completed(name=state.name, message=state.message)
    except InputError as error:
        return Failed(message=str(error), data=error)
    except PhaseFailed as failure:
        return Failed(message=str(failure), data=failure.error)


if __name__ == "__main__":
    predict(*sys.argv[1:])

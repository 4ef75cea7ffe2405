"""Flow runs of a deployment, carried out in the process of a test."""

from contextlib import suppress
from typing import Any


def execute(flow: Any, client: Any, run_id: Any) -> Any:
    """Carry out a flow run as a worker would, in a process of its own; returns its final state."""
    from prefect.exceptions import Pause
    from prefect.flow_engine import run_flow

    run = client.read_flow_run(run_id)
    with suppress(Pause):
        run_flow(flow, flow_run=run, parameters=run.parameters, return_type="state")
    return client.read_flow_run(run_id).state

"""The Prefect side: server, runs, schedules, workers, what the UI shows."""

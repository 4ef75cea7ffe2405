"""The Prefect flows and the `thaw` command line: what follows what, and nothing else."""

"""The Prefect flows: what follows what."""

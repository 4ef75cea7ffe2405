"""The folder as git and DVC keep it: settings, stages, experiments, versions; knows no Prefect."""

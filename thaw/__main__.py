"""`python -m thaw`: the command line."""

from thaw.cli import app

app()

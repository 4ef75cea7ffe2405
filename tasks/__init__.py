"""One file per phase: files in, one call into thaw, files out. `python -m tasks.<phase>` is the DVC stage command."""

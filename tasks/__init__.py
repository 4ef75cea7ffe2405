"""One file per phase: files in, one call into thaw, files out. `thaw phase NAME` is the DVC stage
command."""

from thaw.startup import search_less_for_garbage

search_less_for_garbage()

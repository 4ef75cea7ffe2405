"""Quick starts of processes.

Importing torch makes hundreds of thousands of objects that live as long as the process. Without
this, garbage collection among them takes a fifth of the time that a phase needs to start and to
end.
"""

import atexit
import gc


def search_less_for_garbage() -> None:
    """Make garbage collection rarer; call it before the large imports."""
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)  # frozen objects are not collected again at exit

"""How a process starts quickly.

Importing torch makes hundreds of thousands of objects that live as long as the process. Python's search for garbage
among them would take a fifth of the time that a phase needs to start and to end.
"""

import atexit
import gc


def search_less_for_garbage() -> None:
    """Call it before the large imports."""
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)  # what is frozen is not searched once more at the end

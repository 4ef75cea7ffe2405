"""What each Python process that the tests start does first: as thaw's own, it searches no imports for garbage."""

import atexit
import gc

gc.set_threshold(100_000)
atexit.register(gc.freeze)

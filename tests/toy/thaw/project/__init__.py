"""The room as it is, but for the modules beside this file."""

import os

__path__.append(os.path.join(os.environ["TOY_REAL"], "project"))  # noqa: PTH118

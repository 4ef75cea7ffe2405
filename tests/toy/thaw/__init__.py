"""thaw as it is, but for the modules in this folder: the real ones need real pictures and networks."""

import os

__path__.append(os.environ["TOY_REAL"])

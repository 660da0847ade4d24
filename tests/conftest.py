"""What holds for every test: one thread for ANTs and the numeric libraries.

The same input gives the same bytes then, and the workers of `pytest -n` do not wait for each other's threads.
"""

import os

# Read when the libraries load, so it has to be set before any test module imports them.
for name in ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

"""What holds for every test: one thread, with which ANTs gives the same bytes, and processes do not fight for cores."""

import os

# Read when the libraries load, so before any test module imports them. Rules' scripts set their own numbers.
for name in ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

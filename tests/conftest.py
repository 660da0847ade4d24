"""What holds for every test: ANTs with one thread, where the same input gives the same bytes."""

import os

# Read when ITK loads, so it has to be set before any test module imports ants.
os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"

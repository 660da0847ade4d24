"""What every rule's script shares: the log file, the thread count, and errors told in one sentence."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from brainscm.errors import NO_ROOM, BrainSCMError

logger = logging.getLogger("brainscm")


@contextmanager
def job(snakemake: Any) -> Iterator[logging.Logger]:
    """Run one rule's script: log to `snakemake.log`, hold numeric libraries to `snakemake.threads`.

    Import heavy libraries inside the `with` block: ITK and OpenMP read their thread count when they load.
    What the library tells also goes to stderr, so that a user at the terminal sees how far a long stage is, and what is
    wrong, at once. Every error ends the job with one sentence; that of an unexpected one names the log, where its
    traceback is.
    """
    threads = str(snakemake.threads)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ[name] = threads
    os.environ.setdefault("MPLBACKEND", "Agg")
    log_path = Path(str(snakemake.log[0])).resolve()
    log_path.parent.mkdir(parents=True, exist_ok=True)

    to_file = logging.FileHandler(log_path, mode="w", encoding="utf-8", errors="backslashreplace")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    to_terminal = logging.StreamHandler(sys.stderr)
    to_terminal.setFormatter(logging.Formatter("%(message)s"))
    to_terminal.setLevel(logging.INFO)
    logger.setLevel(logging.DEBUG)
    logger.handlers = [to_file, to_terminal]
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(to_file)
    try:
        yield logger
    except BrainSCMError as error:
        logger.error("%s: %s", snakemake.rule, error)
        sys.exit(1)
    except Exception as error:
        logger.debug(traceback.format_exc())
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            where = error.filename or "the results"
            told = "%s: %s: nothing can be written there (%s); make room, then run the same command again."
            logger.error(told, snakemake.rule, where, error.strerror)
            sys.exit(1)
        told = " ".join(str(error).split())
        logger.error(
            "%s: unexpected %s: %s; its traceback is in %s", snakemake.rule, type(error).__name__, told, log_path
        )
        sys.exit(1)

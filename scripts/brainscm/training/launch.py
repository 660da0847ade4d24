"""Train in several processes: start them (`launch`), and what each of them runs (`python -m …launch job.json`)."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from brainscm.config import AutoencoderOptions
from brainscm.errors import BrainSCMError
from brainscm.training.fit import fit_autoencoder
from brainscm.training.ranks import Ranks

logger = logging.getLogger("brainscm")

LIBRARY = Path(__file__).parents[2]


def launch(
    scans: pd.DataFrame,
    preprocessing: Mapping[str, Any],
    options: AutoencoderOptions,
    seed: int,
    work_dir: Path,
    processes: int,
    mpi: str | None = None,
) -> None:
    """Train in `processes` processes on this node by torchrun, or in all tasks of a SLURM job by `mpi` ("srun").

    What is trained is the state under `work_dir`: `fit_autoencoder` with the same arguments then finds it finished.
    A signal to this process stops the training as it stops one in a single process.

    Raises:
        BrainSCMError: the processes ended otherwise than well; they have logged why.
    """
    job = work_dir / "autoencoder" / "job.json"
    job.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "scans": scans[["scan", "split", "image", "mask"]].astype(str).to_dict("list"),
        "preprocessing": preprocessing,
        "options": options.model_dump(),
        "seed": seed,
        "work_dir": str(work_dir.resolve()),
    }
    job.write_text(json.dumps(content, default=str))
    this = ["-m", "brainscm.training.launch", str(job.resolve())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(LIBRARY), os.environ.get("PYTHONPATH", "")])}
    if mpi:
        command = [*shlex.split(mpi), sys.executable, *this]
        # The batch script runs on the job's first node, where srun puts rank 0.
        environment["MASTER_ADDR"] = os.uname().nodename
        environment["MASTER_PORT"] = str(20000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20000)
        if "SLURM_CPUS_PER_TASK" in environment:  # srun does not take it over from the job by itself
            environment["SRUN_CPUS_PER_TASK"] = environment["SLURM_CPUS_PER_TASK"]
        environment["SLURM_KILL_BAD_EXIT"] = "1"  # a process that dies takes the others with it instead of hanging them
    else:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *torchrun, *this]
    logger.info("training in several processes: %s", shlex.join(command))
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    # torchrun passes SIGTERM on to its processes, and dies of SIGUSR1.
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    previous = {number: signal.signal(number, lambda *_: process.terminate()) for number in numbers}
    try:
        assert process.stderr is not None
        for line in process.stderr:
            logger.info(line.rstrip())
        process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if process.returncode:
        raise BrainSCMError("training in several processes stopped, see above; run again to go on.")


def main(job: Path) -> None:
    """Take part in the training that `launch` described."""
    content = json.loads(job.read_text())
    options = AutoencoderOptions.model_validate(content["options"])
    ranks = Ranks.join()
    logging.basicConfig(level=logging.INFO if ranks.leads else logging.ERROR, format="%(message)s")
    try:
        scans = pd.DataFrame(content["scans"])
        fit_autoencoder(scans, content["preprocessing"], options, content["seed"], Path(content["work_dir"]), ranks)
    except BrainSCMError as error:
        logger.error("%s", error)
        sys.exit(1)
    finally:
        ranks.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

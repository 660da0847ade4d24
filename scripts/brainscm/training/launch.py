"""Train in several processes: start them (`launch`), and what each of them runs (`python -m …launch task.json`)."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path

from brainscm.errors import BrainSCMError
from brainscm.files import write_text
from brainscm.ranks import Ranks
from brainscm.training.fit import fit_autoencoder
from brainscm.training.interruption import on_stop_request
from brainscm.training.task import TrainingTask

logger = logging.getLogger("brainscm")

LIBRARY = Path(__file__).parents[2]


def launch(task: TrainingTask, processes: int, mpi: str | None = None) -> None:
    """Train in `processes` processes on this node by torchrun, or in all tasks of a SLURM job by `mpi` ("srun").

    What is trained is the state under `task.work_dir`: `fit_autoencoder` of the same task then finds it finished.
    A signal to this process stops the training as it stops one in a single process.

    Raises:
        BrainSCMError: the processes ended otherwise than well; they have logged why.
    """
    described = (task.folder / "task.json").absolute()
    write_text(described, task.model_dump_json(indent=2))
    command, environment = _command(["-m", "brainscm.training.launch", str(described)], processes, mpi)
    logger.info("training in several processes: %s", shlex.join(command))
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    # torchrun passes SIGTERM on to its processes, and dies of SIGUSR1.
    with on_stop_request(process.terminate):
        assert process.stderr is not None
        for line in process.stderr:
            logger.info(line.rstrip())
        process.wait()
    if process.returncode:
        raise BrainSCMError("training in several processes stopped, see above; run again to go on.")


def _command(arguments: list[str], processes: int, mpi: str | None) -> tuple[list[str], dict[str, str]]:
    """How Python is called with these arguments in each process, and in which environment."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(LIBRARY), os.environ.get("PYTHONPATH", "")])}
    if not mpi:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        return [sys.executable, *torchrun, *arguments], environment
    # The batch script runs on the job's first node, where srun puts rank 0.
    environment["MASTER_ADDR"] = os.uname().nodename
    environment["MASTER_PORT"] = str(20000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20000)
    if "SLURM_CPUS_PER_TASK" in environment:  # srun does not take it over from the job by itself
        environment["SRUN_CPUS_PER_TASK"] = environment["SLURM_CPUS_PER_TASK"]
    environment["SLURM_KILL_BAD_EXIT"] = "1"  # a process that dies takes the others with it instead of hanging them
    return [*shlex.split(mpi), sys.executable, *arguments], environment


def main(described: Path) -> None:
    """Take part in the training that `launch` described."""
    task = TrainingTask.model_validate_json(described.read_text())
    ranks = Ranks.join()
    logging.basicConfig(level=logging.INFO if ranks.leads else logging.ERROR, format="%(message)s")
    try:
        fit_autoencoder(task, ranks)
    except BrainSCMError as error:
        logger.error("%s", error)
        sys.exit(1)
    finally:
        ranks.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

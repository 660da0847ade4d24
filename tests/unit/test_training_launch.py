"""How the processes of one training are started, and what each of them does."""

import sys
from pathlib import Path

import pytest
from test_training_fit import SPLITS, task_in

from brainscm.errors import BrainSCMError
from brainscm.ranks import ALONE, Ranks
from brainscm.training import launch as launch_module
from brainscm.training.launch import launch, main
from brainscm.training.task import TrainingTask
from made_up_scans import write_scans


@pytest.fixture
def task(tmp_path: Path) -> TrainingTask:
    write_scans(tmp_path, SPLITS)
    return task_in(tmp_path)


def test_torchrun_starts_the_processes_of_one_node():
    command, environment = launch_module._command(["-m", "what", "task.json"], 3, None)
    assert command[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert command[-4:] == ["--nproc-per-node=3", "-m", "what", "task.json"]
    assert environment["PYTHONPATH"].split(":")[0] == str(Path(launch_module.__file__).parents[2])


def test_srun_starts_the_processes_of_a_job_and_takes_all_down_with_one(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    monkeypatch.setenv("SLURM_JOB_ID", "41234")
    command, environment = launch_module._command(["-m", "what"], 1, "srun --label")
    assert command == ["srun", "--label", sys.executable, "-m", "what"]
    assert environment["SRUN_CPUS_PER_TASK"] == "8"
    assert environment["SLURM_KILL_BAD_EXIT"] == "1"
    assert environment["MASTER_ADDR"]
    assert environment["MASTER_PORT"] == "21234"


def test_each_process_takes_part_in_the_training_that_was_described(task, monkeypatch):
    taken: list[object] = []
    monkeypatch.setattr(launch_module, "fit_autoencoder", lambda *given: taken.extend(given))
    monkeypatch.setattr(Ranks, "join", lambda: ALONE)

    def command(arguments, processes, mpi):
        main(Path(arguments[-1]))
        return [sys.executable, "-c", ""], {}

    monkeypatch.setattr(launch_module, "_command", command)
    launch(task, 2)
    assert taken == [task, ALONE]


def test_processes_that_end_badly_end_the_training(task, monkeypatch, caplog):
    caplog.set_level("INFO", logger="brainscm")
    failing = [sys.executable, "-c", "import sys; sys.exit('the scans are gone')"]
    monkeypatch.setattr(launch_module, "_command", lambda *_: (failing, {}))
    with pytest.raises(BrainSCMError, match="training in several processes stopped, see above"):
        launch(task, 2)
    assert "the scans are gone" in caplog.text


def test_an_error_of_one_process_is_one_sentence_and_a_bad_end(task, monkeypatch, caplog):
    def fail(*_):
        raise BrainSCMError("the scans are gone")

    monkeypatch.setattr(launch_module, "fit_autoencoder", fail)
    monkeypatch.setattr(Ranks, "join", lambda: ALONE)
    described = task.work_dir / "task.json"
    described.parent.mkdir()
    described.write_text(task.model_dump_json())
    with pytest.raises(SystemExit) as ended:
        main(described)
    assert ended.value.code == 1
    assert "the scans are gone" in caplog.text

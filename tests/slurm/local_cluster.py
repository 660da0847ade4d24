"""A real SLURM on this machine for the tests: munge, slurmctld and two virtual nodes, one of them with two fake GPUs.

Everything lives in one folder. SLURM's commands are wrapped there, so that they find this cluster (jobs lose
SLURM_CONF, so that an environment variable alone would not do): several clusters can be up at once, beside a SLURM of
the machine's own. Needs root on Debian with the packages slurm-wlm and munge (tests/install_debian_packages.sh).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "sacct", "sacctmgr")
NODES = ("node1", "node2")
CONFIGURATION = """\
ClusterName=brainscm
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MpiDefault=none
# A job that takes more memory than it asked for is killed, as cgroups do elsewhere.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
# No cgroups in a container.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
# The virtual nodes may claim more cores than the machine has.
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
DefMemPerCPU=1000
MinJobAge=3600
KillWait=5
AccountingStorageType=accounting_storage/none
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node1} CPUs={cores} RealMemory={memory_mb}
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={node2} CPUs={cores} RealMemory={memory_mb} Gres=gpu:fake:2
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
"""
# Each fake GPU needs a character device of its own.
GPUS = "NodeName=node2 Name=gpu Type=fake File=/dev/null\nNodeName=node2 Name=gpu Type=fake File=/dev/zero\n"


def why_unavailable() -> str | None:
    """The reason why no cluster can be started here, or None where one can."""
    if os.geteuid() != 0:
        return "starting slurmctld and slurmd needs root"
    absent = [tool for tool in ("sbatch", "slurmctld", "slurmd", "munged") if not path_of(tool)]
    return f"not installed: {', '.join(absent)} (tests/install_debian_packages.sh installs them)" if absent else None


def path_of(name: str) -> str | None:
    """Where a command or daemon of SLURM, or munge's, is installed."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


class LocalCluster:
    """Two nodes.

    Attributes:
        cores: that a node claims to have.
        memory_mb: that a node claims to have. With what the largest job asks for, no more than ten scans are at work
            at once; two cores would be slower with more.
    """

    def __init__(self, folder: Path, cores: int = 8, memory_mb: int = 16000) -> None:
        self.folder, self.cores, self.memory_mb = folder, cores, memory_mb

    @property
    def environment(self) -> dict[str, str]:
        """That of a user of this cluster, whose Python is the tests' own."""
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path}

    def start(self) -> None:
        """Start the daemons and wait until both nodes are idle.

        Raises:
            RuntimeError: the nodes did not come up within 30 s.
        """
        ports = _free_ports(3)
        (self.folder / "state").mkdir(parents=True)
        conf = CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            folder=self.folder,
            cores=self.cores,
            memory_mb=self.memory_mb,
            ctld=ports[0],
            node1=ports[1],
            node2=ports[2],
        )
        (self.folder / "slurm.conf").write_text(conf)
        (self.folder / "gres.conf").write_text(GPUS)
        (self.folder / "bin").mkdir()
        for name in COMMANDS:
            wrapped = self.folder / "bin" / name
            wrapped.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {path_of(name)} "$@"\n')
            wrapped.chmod(0o755)
        if subprocess.run(["munge", "-n"], capture_output=True).returncode != 0:
            subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "/run/munge"], check=True)
            subprocess.run(["runuser", "-u", "munge", "--", str(path_of("munged"))], check=True)
        self.start_controller()
        for node in NODES:
            (self.folder / f"spool-{node}").mkdir()
            self._start("slurmd", "-N", node)
        self.wait_for_nodes()

    def stop(self) -> None:
        self.run("scancel", "--full", "--user", "root", check=False)
        for name in ("slurmd-node1", "slurmd-node2", "slurmctld"):
            self._end(name)

    def start_controller(self) -> None:
        self._start("slurmctld")

    def stop_controller(self) -> None:
        self._end("slurmctld")

    def set_down(self, node: str) -> None:
        """Set a node down, which ends its jobs; its daemon soon tells that it is up again."""
        self.run("scontrol", "update", f"NodeName={node}", "State=down", "Reason=test")

    def wait_for_nodes(self) -> None:
        """Until both nodes take jobs."""
        for _ in range(150):
            states = self.run("sinfo", "-h", "-N", "-o", "%N %t", check=False).split("\n")
            if sorted(state.split(" ")[-1] for state in states) in (["idle", "idle"], ["idle", "mix"], ["mix", "mix"]):
                return
            time.sleep(0.2)
        raise RuntimeError(f"the SLURM nodes did not come up: {states}; see {self.folder}/*.log")

    def jobs(self, *states: str) -> list[str]:
        """The ids of the jobs in these states (PENDING, RUNNING, ...), or else of those that have not ended."""
        asked = ["--states", ",".join(states)] if states else []
        return self.run("squeue", "--noheader", "--format=%i", *asked).split()

    def run(self, command: str, *arguments: str, check: bool = True) -> str:
        """What one of SLURM's commands tells.

        Raises:
            RuntimeError: it fails.
        """
        done = subprocess.run([self.folder / "bin" / command, *arguments], capture_output=True, text=True)
        if check and done.returncode != 0:
            raise RuntimeError(f"{command} {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _start(self, daemon: str, *arguments: str) -> None:
        # It stays in the background, so that its exit status says whether it has come up.
        subprocess.run([str(path_of(daemon)), "-f", self.folder / "slurm.conf", *arguments], check=True)

    def _end(self, name: str) -> None:
        """End a daemon, and wait until it is gone."""
        pid_file = self.folder / f"{name}.pid"
        if not pid_file.exists():
            return
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        while Path("/proc", str(pid)).exists():
            time.sleep(0.05)


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports

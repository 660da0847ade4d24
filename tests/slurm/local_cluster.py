"""A real SLURM on this machine for the tests: munge, slurmctld and two virtual nodes, one of them with two fake GPUs.

Everything lives in one folder; while the cluster is up, /etc/slurm/*.conf are links into it (jobs lose SLURM_CONF, so
that an environment variable would not do). Needs root on Debian with the packages slurm-wlm and munge
(tests/install_debian_packages.sh), and no SLURM of the machine's own.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

ETC = Path("/etc/slurm")
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
# No cgroups in a container.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
# The virtual nodes may claim more cores than the machine has. Their memory is what the largest job asks for, so that no
# more than ten scans are preprocessed at once: two cores would be slower with more.
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
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node1} CPUs=8 RealMemory=16000
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={node2} CPUs=8 RealMemory=16000 Gres=gpu:fake:2
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
"""
# Each fake GPU needs a character device of its own.
GPUS = "NodeName=node2 Name=gpu Type=fake File=/dev/null\nNodeName=node2 Name=gpu Type=fake File=/dev/zero\n"


def why_unavailable() -> str | None:
    """The reason why no cluster can be started here, or None where one can."""
    if os.geteuid() != 0:
        return "starting slurmctld and slurmd needs root"
    if (ETC / "slurm.conf").exists() and not (ETC / "slurm.conf").is_symlink():
        return f"this machine has a SLURM of its own ({ETC}/slurm.conf)"
    absent = [tool for tool in ("sbatch", "slurmctld", "slurmd", "munged") if not _daemon(tool)]
    return f"not installed: {', '.join(absent)} (tests/install_debian_packages.sh installs them)" if absent else None


def _daemon(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


class LocalCluster:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self) -> None:
        """Start the daemons and wait until both nodes are idle.

        Raises:
            RuntimeError: the nodes did not come up within 30 s.
        """
        ports = _free_ports(3)
        (self.folder / "state").mkdir(parents=True)
        conf = CONFIGURATION.format(
            host=socket.gethostname().split(".")[0], folder=self.folder, ctld=ports[0], node1=ports[1], node2=ports[2]
        )
        (self.folder / "slurm.conf").write_text(conf)
        (self.folder / "gres.conf").write_text(GPUS)
        ETC.mkdir(exist_ok=True)
        for name in ("slurm.conf", "gres.conf"):
            (ETC / name).unlink(missing_ok=True)
            (ETC / name).symlink_to(self.folder / name)
        if subprocess.run(["munge", "-n"], capture_output=True).returncode != 0:
            subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "/run/munge"], check=True)
            subprocess.run(["runuser", "-u", "munge", "--", str(_daemon("munged"))], check=True)
        self._run(str(_daemon("slurmctld")))
        for node in ("node1", "node2"):
            (self.folder / f"spool-{node}").mkdir()
            self._run(str(_daemon("slurmd")), "-N", node)
        for _ in range(150):
            states = self._run("sinfo", "-h", "-N", "-o", "%N %t").split("\n")
            if sorted(states) == ["node1 idle", "node2 idle"]:
                return
            time.sleep(0.2)
        raise RuntimeError(f"the SLURM nodes did not come up: {states}; see {self.folder}/*.log")

    def stop(self) -> None:
        self._run("scancel", "--full", "--user", "root", check=False)
        for name in ("slurmd-node1", "slurmd-node2", "slurmctld"):
            path = self.folder / f"{name}.pid"
            if path.exists():
                os.kill(int(path.read_text()), signal.SIGTERM)
        for name in ("slurm.conf", "gres.conf"):
            (ETC / name).unlink()

    def _run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(command, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports

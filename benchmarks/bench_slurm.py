"""What Snakemake's own process costs while it takes a study of dummy scans through `--profile slurm`.

    python benchmarks/bench_slurm.py [--scans 2000] [--seconds 60]

On the tests' own SLURM (root, Debian, slurm-wlm and munge), whose two nodes claim enough for the 200 jobs of the
profile at once. All is as a user has it, but for what a job runs: it sleeps `--seconds`, less than a real one takes,
and then writes empty outputs. Writes results/slurm.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_dag import ROOT, DummyStudy
from growth import cost
from record import RESULTS, circumstances, write

sys.path.insert(0, str(ROOT / "tests"))
from slurm.local_cluster import LocalCluster, path_of, why_unavailable
from workflows import stubbed_checkout

# In place of `sbatch`: sends what writes empty outputs, for the jobs that Snakemake would be started for.
SBATCH = """#!{python} -IS
import os, re, sys

wrapped = next(argument for argument in sys.argv if argument.startswith("--wrap="))
jobs = re.search(r"--target-jobs (.*?) --allowed-rules", wrapped).group(1)
arguments = [argument for argument in sys.argv[1:] if argument != wrapped]
if not os.path.exists("{folder}/{share}") and "align_scan" in jobs:
    open("{folder}/{share}", "w").write(wrapped.removeprefix("--wrap="))
os.environ["SLURM_CONF"] = "{cluster}/slurm.conf"
os.execv("{sbatch}", ["sbatch", *arguments, "--wrap=sleep {seconds}; {python} -IS {folder}/make.py " + jobs])
"""
# Holds the command of a job in which scans are together.
SHARED_JOB = "shared_job.sh"
MAKE = """
import os, sys

for job in sys.argv[1:]:
    rule, _, told = job.partition(":")
    wildcards = dict(part.split("=") for part in told.split(",") if part)
    if "scan" in wildcards:
        stage = {{"preprocess_scan": "status", "align_scan": "alignment"}}[rule]
        made = [f"results/preproc/{{stage}}/{{wildcards['scan']}}.json"]
    else:  # whatever the later stages write
        made = {later}
    shard = ["{{shard}}-of-{{shards}}".format(**wildcards)] if "shard" in wildcards else []
    parts = [rule, *(wildcards[name] for name in ("scan", "question") if name in wildcards), *shard]
    for path in [*made, "results/benchmarks/" + "/".join(parts) + ".tsv"]:
        if os.path.splitext(path)[1] in ("", ".zarr"):
            os.makedirs(path, exist_ok=True)
            continue
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write("scan\\tstatus\\treasons\\n")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=2000)
    parser.add_argument("--seconds", type=int, default=60, help="what a job takes")
    arguments = parser.parse_args()
    unavailable = why_unavailable()
    if unavailable:
        print(f"no SLURM: {unavailable}")
        return
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "cluster").mkdir()
        cluster = LocalCluster(Path(name) / "cluster", cores=1000, memory_mb=10_000_000)
        cluster.start()
        try:
            (Path(name) / "study").mkdir()
            measured = measure(Path(name) / "study", cluster, arguments.scans, arguments.seconds)
        finally:
            cluster.stop()
    print(write({"scans": arguments.scans, **measured, **circumstances()}, RESULTS / "slurm.json"))


def measure(folder: Path, cluster: LocalCluster, n: int, seconds: int) -> dict[str, Any]:
    """Send a study of `n` scans, whose cohort is indexed, through the cluster.

    Returns:
        The numbers of jobs, the seconds that it took, processor seconds of Snakemake's own process and of the commands
        of SLURM that it calls, and its share of a core; and what a job costs in which four scans are preprocessed and
        aligned by scripts that do nothing.
    """
    (folder / "checkout").mkdir()
    checkout = stubbed_checkout(folder / "checkout")
    study = DummyStudy(folder, n)
    study.run(str(study.results / "cohort" / "scans.tsv"))
    by_others = ("results/preproc/status", "results/preproc/alignment", "results/cohort")
    later = [path for path in study.outputs() if not path.startswith(by_others)]
    (folder / "make.py").write_text(MAKE.format(later=later))
    sbatch = cluster.folder / "bin" / "sbatch"
    told = {"folder": folder, "seconds": seconds, "python": "/usr/bin/python3", "cluster": cluster.folder}
    told["share"] = SHARED_JOB
    sbatch.write_text(SBATCH.format(sbatch=path_of("sbatch"), **told))
    profile = ["--profile", str(ROOT / "profiles" / "slurm"), "--configfile", "study.yaml"]
    start = time.monotonic()
    with study.log.open("w") as log:
        command = ["snakemake", "--snakefile", str(checkout / "Snakefile"), *profile]
        process = subprocess.Popen(command, cwd=folder, env=cluster.environment, stdout=log, stderr=subprocess.STDOUT)
        own = (0.0, 0.0)
        while process.poll() is None:
            own = max(own, _processor_seconds(process.pid))
            time.sleep(1)
    wall = time.monotonic() - start
    text = study.log.read_text()
    if process.returncode != 0:
        raise RuntimeError(text[-3000:])
    shared = folder / SHARED_JOB
    # Without the list of files to wait for and the copies of scripts, which were those of the run.
    gone = r"'\S+/\.snakemake/tmp\.\S+'|--runtime-source-cache-path \S+"
    shared.write_text(re.sub(gone, "", shared.read_text()))
    measured = {
        "jobs_of_snakemake": text.count("Finished jobid"),
        "jobs_of_slurm": text.count("has been submitted with SLURM jobid"),
        "seconds_of_a_job": seconds,
        "wall_s": round(wall),
        "head_cpu_s": round(own[0], 1),
        "head_share_of_a_core": round(own[0] / wall, 3),
        "commands_cpu_s": round(own[1], 1),
    }
    print(json.dumps(measured), flush=True)
    return {**measured, "start_of_a_job_of_four_scans": cost(["sh", SHARED_JOB], study.log, cwd=folder)}


def _processor_seconds(pid: int) -> tuple[float, float]:
    """Of a process, and of its children that have ended; zeros where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0.0
    user, system, of_children, system_of_children = (int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in fields[11:15])
    return user + system, of_children + system_of_children


if __name__ == "__main__":
    main()

"""The true answers to a study's queries: the head that the same participant, scanner and noise would have given."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from brainscm.config import QueryOptions
from brainscm.errors import BrainSCMError
from brainscm.files import sidecar, write_json
from brainscm.parallel import one_thread
from brainscm.questions import query_label
from brainscm.simulation import causal_model
from brainscm.simulation.anatomies import draw_label_map, find_label_maps
from brainscm.simulation.cohort import FIRST, TRUTH, head_of, in_ml, save, simulate
from brainscm.simulation.imaging import Head, HeadInScanner
from brainscm.simulation.participant import draw_anatomy
from brainscm.simulation.scanner import acquire
from brainscm.tables import read_table, write_table

COLUMNS = ["scan", "query", "effect", "do", "path", "status", "reason"]


@dataclass(frozen=True)
class _Task:
    """One participant and what is asked of them."""

    bids_dir: Path
    number: int
    participant: str
    label_map: Path | None
    voxel_mm: float
    seed: int
    queries: list[QueryOptions]


def simulate_truth(bids_dir: Path, scans: Collection[str], queries: list[QueryOptions], workers: int) -> None:
    """Simulate the true counterfactual head of each query and each participant's first session among `scans`.

    Heads and `counterfactuals.tsv` go into the cohort's derivatives/truth, where they replace earlier ones; the table
    is written last. A query that the simulator cannot answer becomes a row with the reason. A head depends on the
    cohort's seed and voxel size, the participant and the query only.

    Args:
        bids_dir: a folder of `simulate_cohort`.
        scans: ids such as `sub-001_ses-01`; those of other sessions have no answer.
        workers: number of processes.
    """
    truth = bids_dir / TRUTH
    for earlier in truth.glob("sub-*/**/*_T1w.*"):
        earlier.unlink()
    declared = json.loads((bids_dir / "truth.json").read_text())
    options = declared["options"]
    label_maps = find_label_maps(Path(options["anatomies"])) if "anatomies" in options else []
    participants = read_table(bids_dir / "participants.tsv")["participant_id"]
    numbers = {f"{name}_{FIRST}": int(name.removeprefix("sub-")) for name in participants}
    tasks = [
        _Task(
            bids_dir=bids_dir,
            number=number,
            participant=scan.removesuffix(f"_{FIRST}"),
            label_map=draw_label_map(label_maps, declared["seed"], number) if label_maps else None,
            voxel_mm=options["voxel_mm"],
            seed=declared["seed"],
            queries=queries,
        )
        for scan, number in numbers.items()
        if scan in scans
    ]
    rows = [row for answered in simulate(_answer_all, tasks, workers) for row in answered]
    rows.sort(key=lambda row: row["scan"])
    write_table(pd.DataFrame(rows, columns=None if rows else COLUMNS), truth / "counterfactuals.tsv")


def _answer_all(task: _Task) -> list[dict[str, Any]]:
    noise = causal_model.draw_noise(task.seed, task.number)
    nodes = causal_model.draw_nodes(noise)
    scan, rows = f"{task.participant}_{FIRST}", []
    with one_thread():
        anatomy = draw_anatomy(head_of(task.label_map), task.seed, task.participant, nodes.head_size)
        acquisition = acquire(task.seed, task.participant, FIRST, nodes.site, task.voxel_mm)
        in_scanner = HeadInScanner(anatomy, acquisition)
        for query in task.queries:
            row, head = _answer(query, nodes, noise, in_scanner)
            if head is not None:
                name = f"{scan}_desc-{query_label(query.name)}_T1w.nii.gz"
                path = Path(TRUTH, task.participant, FIRST, "anat", name)
                save(head.image, acquisition, task.bids_dir / path)
                told = {"Description": "True counterfactual head", "SkullStripped": False}
                asked = {"Query": query.name, "Do": query.do, "Effect": query.effect}
                write_json(sidecar(task.bids_dir / path), told | asked)
                row = {"path": str(path), **row}
            rows.append({"scan": scan, "query": query.name, "effect": query.effect, "do": json.dumps(query.do), **row})
    return rows


def _answer(
    query: QueryOptions, nodes: causal_model.Nodes, noise: causal_model.Noise, in_scanner: HeadInScanner
) -> tuple[dict[str, Any], Head | None]:
    """The true counterfactual head with what its table row tells of it, or None with the reason."""
    try:
        changed = causal_model.intervene(nodes, noise, query.do, query.effect)
        head = in_scanner.read(changed)
    except BrainSCMError as error:
        return {"path": None, "status": "skipped", "reason": str(error)}, None
    return {"status": "written", "reason": None, **asdict(changed), **in_ml(head)}, head

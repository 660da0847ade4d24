"""Write a simulated cohort as a BIDS folder: raw heads, and beside them what real scans do not tell of themselves."""

from __future__ import annotations

import gzip
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import nibabel as nib
import pandas as pd
from joblib import Parallel, delayed  # type: ignore[import-untyped]
from numpy.typing import NDArray

from brainscm.config import SimulationOptions
from brainscm.errors import BrainSCMError
from brainscm.files import whole, write_dataset_description, write_json
from brainscm.parallel import one_thread
from brainscm.simulation import causal_model
from brainscm.simulation.anatomies import anatomy_name, draw_label_map, find_label_maps
from brainscm.simulation.anatomy import CanonicalHead, embedded_head
from brainscm.simulation.imaging import LABELS, Head, HeadInScanner
from brainscm.simulation.label_maps import head_of_label_map
from brainscm.simulation.participant import draw_anatomy
from brainscm.simulation.scanner import Acquisition, acquire
from brainscm.tables import write_table

logger = logging.getLogger("brainscm")

TRUTH = "derivatives/truth"
FIRST = "ses-01"
README = """Heads that BrainSCM simulated: nobody was scanned.

truth.json has the causal model that they were drawn from, derivatives/truth what real scans do not tell of themselves.
"""
README_OF_TRUTH = """What is true of the simulated heads.

nodes.tsv has the values of all nodes of each scan, volumes.tsv its regional volumes (ml), counterfactuals.tsv the
counterfactual heads (desc-<query>_T1w) that were asked for. desc-truth_dseg.tsv names the labels of the segmentations.
"""


class OfOneHead(Protocol):
    """Work on a participant whose head is made from a label map, or from the embedded head."""

    @property
    def label_map(self) -> Path | None: ...


Task = TypeVar("Task", bound=OfOneHead)
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Task:
    """One participant, with all that a worker needs to simulate them."""

    output_dir: Path
    number: int
    participant: str
    label_map: Path | None
    follow_up: bool
    rescan: bool
    truncated: bool
    voxel_mm: float
    seed: int


def simulate_cohort(output_dir: Path, options: SimulationOptions, seed: int, workers: int) -> None:
    """Simulate a cohort of raw heads whose causal model is known, with their true labels, volumes and nodes.

    Everything about a scan depends on (seed, participant, session) and the voxel size only: any number of workers gives
    the same bytes, and a larger cohort contains the smaller one. With label maps it depends on them, too; the column
    `anatomy` of participants.tsv names each participant's. Where a head cannot be given the volumes that were drawn for
    a session, the session is left out and refused.tsv says why.

    Args:
        output_dir: the BIDS folder to write; a cohort simulated there before is replaced. dataset_description.json is
            written last.
        options: size of the cohort, voxel size, shares of participants with a later session and with a rescan on the
            same day (another pose and other noise), number of truncated files, label maps.
        workers: number of processes.

    Raises:
        BrainSCMError: `output_dir` holds something else than a simulated cohort, or a label map cannot be used.
    """
    label_maps = find_label_maps(options.anatomies) if options.anatomies else []
    _make_room(output_dir)
    total = options.participants + options.truncated_scans
    tasks = [
        _Task(
            output_dir=output_dir,
            number=number,
            participant=f"sub-{number:03d}",
            label_map=draw_label_map(label_maps, seed, number) if label_maps else None,
            follow_up=_chosen(number, options.follow_up_share) and number <= options.participants,
            rescan=_chosen(number, options.rescan_share) and number <= options.participants,
            truncated=number > options.participants,
            voxel_mm=options.voxel_mm,
            seed=seed,
        )
        for number in range(1, total + 1)
    ]
    simulated = sorted(simulate(_simulate_participant, tasks, workers), key=lambda participant: participant.number)
    _write_tables(output_dir, simulated, options, seed)


def _make_room(output_dir: Path) -> None:
    if output_dir.exists() and any(output_dir.iterdir()):
        if not (output_dir / "truth.json").exists():
            raise BrainSCMError(
                f"{output_dir} is not empty and not a simulated cohort; move it away or choose another folder."
            )
        shutil.rmtree(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    # Written first, so that an interrupted simulation is recognised and replaced.
    (output_dir / "truth.json").write_text("{}\n")


def _chosen(number: int, share: float) -> bool:
    """Whether this participant is among the evenly spaced `share`."""
    return int(number * share + 1e-9) > int((number - 1) * share + 1e-9)


@dataclass(frozen=True)
class _Participant:
    """One simulated participant's rows in the tables; `row` is that of participants.tsv."""

    number: int
    row: dict[str, Any]
    sessions: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    volumes: list[dict[str, Any]] = field(default_factory=list)


def head_of(label_map: Path | None) -> CanonicalHead:
    """The head that a participant is made from."""
    return head_of_label_map(label_map) if label_map else embedded_head()


def simulate(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """The work on each participant, in processes of their own, as they are done; says now and then how far it is.

    One process does all participants of a label map, whose head it prepares once.
    """
    of_map: dict[Path | int, list[Task]] = {}
    for place, task in enumerate(tasks):
        of_map.setdefault(task.label_map or place, []).append(task)
    batches = list(of_map.values())
    # joblib's workers start afresh (a forked child of a threaded process may hang) and do not run the caller's main
    # module again, which under Snakemake is the rule's own script.
    parallel = Parallel(min(workers, len(batches)) or 1, return_as="generator_unordered")
    start, done = time.monotonic(), 0
    for results in parallel(delayed(_each)(work, batch) for batch in batches):
        for result in results:
            yield result
            done += 1
            if done % 10 == 0 or done == len(tasks):
                left = (time.monotonic() - start) / done * (len(tasks) - done)
                logger.info("simulated %d of %d participants, about %.0f s left", done, len(tasks), left)


def _each(work: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    return [work(task) for task in tasks]


def _simulate_participant(task: _Task) -> _Participant:
    noise = causal_model.draw_noise(task.seed, task.number)
    first = causal_model.draw_nodes(noise)
    visits = {FIRST: first}
    if task.follow_up:
        years = causal_model.generator(task.seed, task.participant, "interval").uniform(2, 8)
        visits["ses-02"] = causal_model.later(first, noise, years)
    if task.rescan:
        visits["ses-rescan"] = first
    participant = _Participant(
        number=task.number,
        row={
            "participant_id": task.participant,
            "sex": first.sex,
            "age": first.age,
            "site": first.site,
            "diagnosis": first.diagnosis,
            **({"anatomy": anatomy_name(task.label_map)} if task.label_map else {}),
        },
    )
    with one_thread():
        anatomy = draw_anatomy(head_of(task.label_map), task.seed, task.participant, first.head_size)
        for session, nodes in visits.items():
            scan, anat = f"{task.participant}_{session}", Path(task.participant, session, "anat")
            acquisition = acquire(task.seed, task.participant, session, nodes.site, task.voxel_mm)
            in_scanner = HeadInScanner(anatomy, acquisition)
            try:
                head = in_scanner.read(nodes)
            except BrainSCMError as error:
                participant.refused.append({"scan": scan, "reason": str(error)})
                continue
            raw = task.output_dir / anat / f"{scan}_T1w.nii.gz"
            save(head.image, acquisition, raw)
            save(head.labels, acquisition, task.output_dir / TRUTH / anat / f"{scan}_desc-truth_dseg.nii.gz")
            if task.truncated:
                _truncate(raw)
            participant.sessions.append({"session_id": session, "age": nodes.age, "diagnosis": nodes.diagnosis})
            participant.nodes.append({"scan": scan, **asdict(nodes)})
            participant.volumes.append({"scan": scan, **in_ml(head)})
    return participant


def in_ml(head: Head) -> dict[str, float]:
    """A head's true volumes as the columns of a table."""
    return {f"{region}_ml": volume for region, volume in head.volumes_ml.items()}


def save(volume: NDArray[Any], acquisition: Acquisition, path: Path) -> None:
    """Write NIfTI with no time stamp, so that equal scans are equal files."""
    image = nib.Nifti1Image(volume, acquisition.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(acquisition.affine, code="scanner")
    image.set_sform(acquisition.affine, code="scanner")
    with whole(path) as partial:
        partial.write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))


def _truncate(path: Path) -> None:
    """Cut a file short, as an interrupted transfer does."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _write_tables(output_dir: Path, participants: list[_Participant], options: SimulationOptions, seed: int) -> None:
    truth = output_dir / TRUTH
    refused = [row for participant in participants for row in participant.refused]
    if refused:
        logger.warning("%d sessions are left out: %s (%s)", len(refused), refused[0]["reason"], refused[0]["scan"])
        write_table(pd.DataFrame(refused), truth / "refused.tsv")
    participants = [participant for participant in participants if participant.sessions]
    write_table(pd.DataFrame([participant.row for participant in participants]), output_dir / "participants.tsv")
    for participant in participants:
        name = participant.row["participant_id"]
        write_table(pd.DataFrame(participant.sessions), output_dir / name / f"{name}_sessions.tsv")
    for table in ("nodes", "volumes"):
        rows = [row for participant in participants for row in getattr(participant, table)]
        write_table(pd.DataFrame(rows), truth / f"{table}.tsv")
    write_table(pd.DataFrame({"index": list(LABELS), "name": list(LABELS.values())}), truth / "desc-truth_dseg.tsv")
    generated_by = {"Name": "BrainSCM simulator"}
    tables = ("nodes.tsv", "volumes.tsv", "counterfactuals.tsv", "refused.tsv")
    write_dataset_description(
        truth, "Truth of the simulated cohort", generated_by=generated_by, readme=README_OF_TRUTH, ignored=tables
    )
    diagnoses = {"CN": "cognitively normal", "MCI": "mild cognitive impairment", "AD": "Alzheimer's disease"}
    of_sessions = {"age": {"Units": "years"}, "diagnosis": {"Levels": diagnoses}}
    of_participants: dict[str, dict[str, Any]] = {
        "sex": {"Levels": {"F": "female", "M": "male"}},
        "site": {"Description": "scanner", "Levels": {"A": "first scanner", "B": "second scanner"}},
    }
    if options.anatomies:
        of_participants["anatomy"] = {"Description": "label map that the head is made from"}
    write_json(output_dir / "participants.json", of_participants | of_sessions)
    write_json(output_dir / "sessions.json", of_sessions)
    declared = options.model_dump(mode="json", exclude_none=True)
    write_json(output_dir / "truth.json", {"seed": seed, "options": declared, **causal_model.declaration()})
    name = "Simulated cohort of raw heads"
    write_dataset_description(output_dir, name, "raw", generated_by, readme=README, ignored=["truth.json"])

"""The folder that the simulator writes: BIDS, the same bytes every time, and with the true answers."""

import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_standard import validator_errors
from brainscm.cohort.bids import find_t1w
from brainscm.config import QueryOptions, SimulationOptions
from brainscm.errors import BrainSCMError
from brainscm.files import write_dataset_description
from brainscm.simulation.cohort import simulate_cohort
from brainscm.simulation.truth import simulate_truth
from brainscm.tables import read_table

pytestmark = pytest.mark.slow

SEED = 11
QUERIES = [
    QueryOptions(name="unchanged", do={"age": "+0"}),
    QueryOptions(name="older-total", do={"age": "+25"}),
    QueryOptions(name="older-direct", do={"age": "+25"}, effect="direct"),
    QueryOptions(name="taught", do={"education": 20}),
]


def options(participants: int, follow_up_share: float = 0.5, truncated_scans: int = 0) -> SimulationOptions:
    # Smaller than the configuration allows: these tests need a folder, not a cohort.
    return SimulationOptions.model_construct(
        participants=participants, voxel_mm=4.0, follow_up_share=follow_up_share, truncated_scans=truncated_scans
    )


@pytest.fixture(scope="module")
def bids(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("simulation") / "bids"
    simulate_cohort(folder, options(2, truncated_scans=1), SEED, workers=1)
    simulate_truth(folder, {"sub-001_ses-01", "sub-002_ses-01", "sub-002_ses-02"}, QUERIES, workers=1)
    return folder


def scan_path(bids: Path, participant: str, session: str = "ses-01") -> Path:
    return bids / participant / session / "anat" / f"{participant}_{session}_T1w.nii.gz"


def test_the_validator_of_bids_finds_no_error(bids):
    assert validator_errors(bids) == []
    assert validator_errors(bids / "derivatives" / "truth") == []


def test_with_recursion_it_finds_only_what_it_should_have_ignored(bids, tmp_path):
    """The validator (3.0.2) leaves hidden files out before it looks for the `.bidsignore` of a dataset in
    `derivatives/`, so that it complains of every file named there: of a dataset that holds nothing else, too."""

    def not_included(ignored: list[str]) -> list[str]:
        return sorted(f"NOT_INCLUDED /{name}" for name in ignored)

    truth = bids / "derivatives" / "truth"
    ignored = [name for name in (truth / ".bidsignore").read_text().split() if (truth / name).exists()]
    assert validator_errors(bids, "--recursive") in ([], not_included(ignored))

    least = tmp_path / "derivatives" / "least"
    shutil.copytree(bids / "sub-001", tmp_path / "sub-001")
    write_dataset_description(tmp_path, "Raw", "raw")
    write_dataset_description(least, "Least", ignored=["note.txt"])
    (least / "note.txt").write_text("ignored")
    assert validator_errors(least) == []
    assert validator_errors(tmp_path, "--recursive") in ([], not_included(["note.txt"]))


def test_any_number_of_workers_in_any_order_gives_the_same_bytes(bids, tmp_path):
    simulate_cohort(tmp_path / "again", options(2), SEED, workers=2)
    simulate_truth(tmp_path / "again", {"sub-001_ses-01", "sub-002_ses-01"}, QUERIES[1:2], workers=2)
    for path in ("sub-001/ses-01", "sub-002/ses-01", "sub-002/ses-02"):
        participant, session = path.split("/")
        first, second = (scan_path(folder, participant, session) for folder in (bids, tmp_path / "again"))
        assert first.read_bytes() == second.read_bytes()
    truths = sorted(path.relative_to(bids) for path in bids.glob("derivatives/truth/**/*olderTotal_T1w.nii.gz"))
    assert len(truths) == 2
    for truth in truths:
        assert (bids / truth).read_bytes() == (tmp_path / "again" / truth).read_bytes()


def test_the_tables_say_who_was_scanned_when(bids):
    participants = read_table(bids / "participants.tsv").set_index("participant_id")
    assert list(participants.columns) == ["sex", "age", "site", "diagnosis"]
    assert list(participants.index) == ["sub-001", "sub-002", "sub-003"]
    sessions = read_table(bids / "sub-002" / "sub-002_sessions.tsv").set_index("session_id")
    assert list(sessions.index) == ["ses-01", "ses-02"]
    assert sessions.loc["ses-01", "age"] == participants.loc["sub-002", "age"]
    assert 2 <= sessions.loc["ses-02", "age"] - sessions.loc["ses-01", "age"] <= 8.1
    assert sorted(file.scan for file in find_t1w(bids).files) == [
        "sub-001_ses-01",
        "sub-002_ses-01",
        "sub-002_ses-02",
        "sub-003_ses-01",
    ]
    nodes = read_table(bids / "derivatives/truth/nodes.tsv").set_index("scan")
    volumes = read_table(bids / "derivatives/truth/volumes.tsv").set_index("scan")
    np.testing.assert_allclose(volumes["ventricles_ml"], nodes["ventricles"], rtol=0.06)
    # A participant keeps their noise: a later scan differs by what the years do.
    assert nodes.loc["sub-002_ses-02", "head_size"] == nodes.loc["sub-002_ses-01", "head_size"]
    assert nodes.loc["sub-002_ses-02", "ventricles"] > nodes.loc["sub-002_ses-01", "ventricles"]


def test_the_model_is_declared(bids):
    truth = json.loads((bids / "truth.json").read_text())
    assert truth["seed"] == SEED
    assert truth["coefficients"]["log_ventricles"]["d_male"] != 0
    assert truth["mediators"] == ["diagnosis", "ventricles", "medial_temporal_gm"]
    for folder in (bids, bids / "derivatives" / "truth"):
        assert json.loads((folder / "dataset_description.json").read_text())["BIDSVersion"]


def test_a_truncated_scan_cannot_be_read(bids):
    with pytest.raises((EOFError, OSError, gzip.BadGzipFile)):
        nib.load(scan_path(bids, "sub-003")).get_fdata()


def test_every_query_has_its_true_answer_or_the_reason_why_not(bids):
    answers = read_table(bids / "derivatives/truth/counterfactuals.tsv").set_index(["scan", "query"])
    assert len(answers) == 2 * len(QUERIES)
    skipped = answers[answers["status"] == "skipped"]
    assert {query for _, query in skipped.index} == {"taught"}
    assert skipped["reason"].str.contains("no node 'education'").all()
    for participant in ("sub-001", "sub-002"):
        scan = f"{participant}_ses-01"
        factual = scan_path(bids, participant)
        same, total, direct = (
            bids / answers.loc[(scan, query), "path"] for query in ("unchanged", "older-total", "older-direct")
        )
        assert same.read_bytes() == factual.read_bytes()
        assert len({path.read_bytes() for path in (factual, total, direct)}) == 3
        assert np.array_equal(nib.load(total).affine, nib.load(factual).affine)
        volumes = answers.loc[scan]
        unchanged = volumes.loc["unchanged", "ventricles_ml"]
        assert volumes.loc["older-direct", "ventricles_ml"] == pytest.approx(unchanged, rel=0.03)
        assert volumes.loc["older-total", "ventricles_ml"] > 1.3 * unchanged
        assert volumes.loc["older-direct", "gm_ml"] < volumes.loc["unchanged", "gm_ml"]


def test_only_the_scans_asked_for_get_answers_and_earlier_answers_are_replaced(bids, tmp_path):
    folder = shutil.copytree(bids, tmp_path / "bids")
    simulate_truth(folder, {"sub-002_ses-01"}, QUERIES[2:3], workers=1)
    answers = read_table(folder / "derivatives/truth/counterfactuals.tsv")
    assert answers[["scan", "query"]].to_numpy().tolist() == [["sub-002_ses-01", "older-direct"]]
    heads = folder.glob("derivatives/truth/**/*_T1w.nii.gz")
    assert [str(path.relative_to(folder)) for path in heads] == list(answers["path"])


def test_an_earlier_cohort_is_replaced_and_anything_else_is_left_alone(tmp_path):
    earlier = tmp_path / "earlier"
    (earlier / "sub-099").mkdir(parents=True)
    (earlier / "truth.json").write_text("{}\n")
    simulate_cohort(earlier, options(1, follow_up_share=0), SEED, workers=1)
    assert not (earlier / "sub-099").exists()
    simulate_truth(earlier, [], QUERIES, workers=1)
    assert read_table(earlier / "derivatives/truth/counterfactuals.tsv").empty

    study = tmp_path / "study"
    study.mkdir()
    (study / "participants.tsv").write_text("participant_id\n")
    with pytest.raises(BrainSCMError, match="not a simulated cohort"):
        simulate_cohort(study, options(1), SEED, workers=1)
    assert (study / "participants.tsv").exists()

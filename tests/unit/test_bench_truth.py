"""The standing benchmark's own reading of a run."""

import json
from pathlib import Path

import bench_truth as bench
import numpy as np
import pandas as pd
import pytest
import yaml

from brainscm.simulation.causal_model import COEFFICIENTS, draw_nodes, draw_noise
from brainscm.workflow.config_loading import load_config

ROOT = Path(__file__).parents[2]


def write_truth(folder: Path, coefficients: dict) -> Path:
    """The tables of 160 simulated participants, with volumes that a label map would give: near the declared ones."""
    rng = np.random.default_rng(0)
    participants = [vars(draw_nodes(draw_noise(4, number))) for number in range(1, 161)]
    nodes = pd.DataFrame(
        [{"scan": f"sub-{n:03d}_ses-01", **participant} for n, participant in enumerate(participants, 1)]
    )
    truth = folder / "derivatives" / "truth"
    truth.mkdir(parents=True)
    nodes.to_csv(truth / "nodes.tsv", sep="\t", index=False)
    volumes = {
        f"{node}_ml": nodes[node] * np.exp(rng.normal(0, 0.01, 160)) for node in ("ventricles", "medial_temporal_gm")
    }
    pd.DataFrame({"scan": nodes["scan"], **volumes}).to_csv(truth / "volumes.tsv", sep="\t", index=False)
    (folder / "truth.json").write_text(json.dumps({"coefficients": coefficients}))
    return truth


def test_declared_coefficients_are_recovered_from_the_volumes_of_the_heads(tmp_path):
    found = bench.recovered_coefficients(write_truth(tmp_path, COEFFICIENTS))
    assert set(found) == {"ventricles", "medial_temporal_gm"}
    assert all(term["recovered"] for terms in found.values() for term in terms.values())


def test_a_coefficient_that_the_heads_do_not_follow_is_seen(tmp_path):
    other = {**COEFFICIENTS, "log_ventricles": {**COEFFICIENTS["log_ventricles"], "d": 0.35}}
    found = bench.recovered_coefficients(write_truth(tmp_path, other))
    assert not found["ventricles"]["d"]["recovered"]
    assert found["ventricles"]["ad"]["recovered"]


def test_a_mediator_that_is_measured_badly_is_seen(tmp_path):
    truth = write_truth(tmp_path, COEFFICIENTS)
    true = pd.read_csv(truth / "volumes.tsv", sep="\t")
    noise = np.exp(np.random.default_rng(1).normal(0, 0.2, 160))
    measured = true.assign(medial_temporal_gm_ml=3 * true["medial_temporal_gm_ml"] * noise, head_size=1.0)
    measured.to_csv(tmp_path / "qc.tsv", sep="\t", index=False)
    found = bench.measured_mediators(truth, tmp_path)
    assert found["ventricles"] == {"correlation": 1, "correlation_given_others": 1, "median_ratio": 1}
    assert found["medial_temporal_gm"]["correlation_given_others"] < 0.5
    assert found["medial_temporal_gm"]["median_ratio"] == pytest.approx(3, rel=0.1)


def test_the_study_is_the_one_that_is_declared():
    study = load_config(ROOT, yaml.safe_load((ROOT / "benchmarks" / "truth.yaml").read_text()))
    shares, participants = study.cohort.split, study.simulation.participants
    assert [round(share * participants) for share in (shares.train, shares.validation, shares.test)] == [120, 8, 32]
    assert study.simulation.voxel_mm == study.preprocess.voxel_mm == 3
    asked = [(query.do, query.effect) for query in study.counterfactuals]
    for change in ("+10", "+20", "-10", "-20"):
        assert ({"age": change}, "total") in asked
    assert ({"age": "+20"}, "direct") in asked
    assert ({"diagnosis": "AD"}, "total") in asked
    assert ({"age": "+10", "diagnosis": "AD"}, "total") in asked


def test_seed_and_size_reach_the_workflow(monkeypatch):
    commands = []
    monkeypatch.setattr(bench.subprocess, "run", lambda command, **_: commands.append(command))
    for anatomies in (bench.EMBEDDED, "/maps"):
        parser_arguments = bench.argparse.Namespace(anatomies=anatomies, seed=2, participants=16, cores=2, options=None)
        bench.run_workflow(Path("/somewhere/truth_seed2"), parser_arguments)
    embedded, command = commands
    assert "seed=2" in command
    assert 'simulation={"participants": 16}' in embedded
    assert 'simulation={"anatomies": "/maps", "participants": 16}' in command
    assert str(bench.STUDY) in command


def test_the_standing_benchmark_says_that_it_needs_anatomies(monkeypatch):
    monkeypatch.setattr(bench.sys, "argv", ["bench_truth.py"])
    with pytest.raises(SystemExit, match="ANATOMIES=folder"):
        bench.main()

"""Fingerprints of code: what can change a result changes them, and nothing else does."""

import re
from pathlib import Path

import pytest

from brainscm import provenance
from brainscm.provenance import code_fingerprint


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "preprocess").mkdir()
    (tmp_path / "preprocess" / "scan.py").write_text("STEPS = 3\n")
    (tmp_path / "landmarks.py").write_text('"""Where things lie."""\n\nRADIUS_MM = 13.0\n')
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    return tmp_path


def test_code_of_a_stage_and_of_a_module_beside_it_is_seen(package: Path) -> None:
    before = code_fingerprint("preprocess", "landmarks")
    (package / "landmarks.py").write_text("RADIUS_MM = 12.0\n")
    moved = code_fingerprint("preprocess", "landmarks")
    (package / "preprocess" / "scan.py").write_text("STEPS = 4\n")
    assert len({before, moved, code_fingerprint("preprocess", "landmarks")}) == 3


def test_comments_docstrings_and_other_stages_are_not(package: Path) -> None:
    before = code_fingerprint("preprocess", "landmarks")
    (package / "landmarks.py").write_text("RADIUS_MM = 13.0  # as drawn on the template\n")
    (package / "report").mkdir()
    (package / "report" / "pages.py").write_text("WIDTH = 800\n")
    assert code_fingerprint("preprocess", "landmarks") == before


def test_every_name_in_the_rules_is_code() -> None:
    rules = Path(__file__).parents[2] / "rules"
    calls = re.findall(r"=code_fingerprint\((.*)\)", "\n".join(path.read_text() for path in rules.glob("*.smk")))
    named = {name for call in calls for name in re.findall(r'"(\w+)"', call)}
    assert "landmarks" in named
    for name in named:
        assert (provenance.PACKAGE / name).is_dir() or (provenance.PACKAGE / f"{name}.py").is_file(), name

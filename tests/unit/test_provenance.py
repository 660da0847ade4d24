"""Fingerprints of code: what can change a result changes them, and nothing else does."""

import ast
from pathlib import Path

import pytest

from brainscm.provenance import NOT_COUNTED, SCRIPTS, code_fingerprint, import_closure
from workflows import scripted_rules

LIBRARY = {
    "preprocess_scan.py": "from brainscm.job import job\nwith job(snakemake):\n    from brainscm.scan import run\n",
    "brainscm/__init__.py": '"""The library."""\n\n__version__ = "1.0"\n',
    "brainscm/job.py": "LOG = 'scan.log'\n",
    "brainscm/scan.py": (
        '"""One scan."""\nfrom typing import TYPE_CHECKING\n\nfrom brainscm import landmarks\n'
        "if TYPE_CHECKING:\n    from brainscm.kinds import Kind\n\n"
        'def run() -> "Kind":\n    """Do it."""\n    from brainscm.steps.mask import mask\n\n    return mask()\n'
    ),
    "brainscm/landmarks.py": "RADIUS_MM = 13.0\n",
    "brainscm/kinds.py": "class Kind: ...\n",
    "brainscm/steps/__init__.py": "ORDER = 1\n",
    "brainscm/steps/mask.py": "from . import grow\n\ndef mask():\n    return grow.grow\n",
    "brainscm/steps/grow.py": "try:\n    import c\nexcept ImportError:\n    import brainscm.slow\n\ndef grow(): ...\n",
    "brainscm/slow.py": "STEPS = 100\n",
    "brainscm/report.py": "from brainscm.scan import run\n",
}


def fingerprint(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return code_fingerprint("preprocess_scan", folder)


def is_counted(folder: Path, name: str, text: str) -> bool:
    """Whether the rule has another fingerprint when one file reads otherwise."""
    assert text != LIBRARY[name]
    return fingerprint(folder / "before", LIBRARY) != fingerprint(folder / "after", {**LIBRARY, name: text})


@pytest.mark.parametrize(
    "name",
    [
        "preprocess_scan.py",
        "brainscm/scan.py",  # within a `with` block
        "brainscm/landmarks.py",  # a module that is named as a package's content
        "brainscm/steps/__init__.py",  # a package that is only passed through
        "brainscm/steps/mask.py",  # within a function, of a module that the script does not name
        "brainscm/steps/grow.py",  # by a relative import
        "brainscm/slow.py",  # when something fails
    ],
)
def test_what_a_rule_imports_counts_however_far_away(tmp_path: Path, name: str) -> None:
    assert is_counted(tmp_path, name, LIBRARY[name] + "EDITED = True\n")


@pytest.mark.parametrize(
    "name",
    [
        "brainscm/report.py",  # which the rule does not import, but which imports what the rule imports
        "brainscm/kinds.py",  # below `if TYPE_CHECKING`
        "brainscm/job.py",  # one of those that change no number
        "brainscm/__init__.py",  # the version
    ],
)
def test_what_cannot_change_its_result_does_not_count(tmp_path: Path, name: str) -> None:
    assert not is_counted(tmp_path, name, LIBRARY[name] + "EDITED = True\n")


def test_comments_docstrings_and_layout_do_not_count(tmp_path: Path) -> None:
    scan = LIBRARY["brainscm/scan.py"]
    retold = scan.replace("One scan.", "A scan.").replace("Do it.", "Do all of it.").replace("return ", "return  ")
    assert not is_counted(tmp_path, "brainscm/scan.py", f"# Read on.\n{retold}")
    told = LIBRARY["brainscm/steps/grow.py"].replace("grow(): ...", 'grow():\n    """Grow."""\n    ...')
    assert not is_counted(tmp_path, "brainscm/steps/grow.py", told)


def test_a_module_counts_by_its_name(tmp_path: Path) -> None:
    fingerprint(tmp_path, LIBRARY)
    found = import_closure("brainscm.steps.mask", scripts=tmp_path)
    assert set(found) == {"brainscm.steps.mask", "brainscm.steps", "brainscm.steps.grow", "brainscm.slow", "brainscm"}
    with pytest.raises(ModuleNotFoundError, match="preprocess_scans"):
        code_fingerprint("preprocess_scans", tmp_path)


def test_each_module_that_may_be_chosen_by_its_name_counts(tmp_path: Path) -> None:
    scan = "from importlib import import_module\ndef run(step):\n    return import_module(f'brainscm.steps.{step}')\n"
    fingerprint(tmp_path, {**LIBRARY, "brainscm/scan.py": scan})
    found = import_closure("brainscm.scan", scripts=tmp_path)
    assert {"brainscm.steps.mask", "brainscm.steps.grow"} <= set(found)
    assert {"brainscm.encoding.pca", "brainscm.encoding.vqvae"} <= set(import_closure("encode_scans"))


def test_every_rule_with_a_script_has_the_fingerprint_of_its_own_code() -> None:
    rules = scripted_rules()
    assert set(rules) == {path.stem for path in SCRIPTS.glob("*.py")}
    for rule, block in rules.items():
        assert f'code=lambda wildcards: code_fingerprint("{rule}"),' in block, rule


@pytest.mark.parametrize(
    ("module", "importing", "others"),
    [
        (
            "parallel",
            {"align_scan", "train_autoencoder", "encode_scans", "fit_scm"},
            {"index_cohort", "preprocess_scan"},
        ),
        ("alignment.registration", {"align_scan", "train_autoencoder"}, {"preprocess_scan"}),
        (
            "report.pictures",
            {"render_scans", "render_report"},
            {"preprocess_scan", "fit_scm", "evaluate_counterfactuals"},
        ),
    ],
)
def test_a_module_is_part_of_the_rules_that_import_it_alone(module: str, importing: set[str], others: set[str]) -> None:
    found = {rule for rule in importing | others if f"brainscm.{module}" in import_closure(rule)}
    assert found == importing


def test_what_is_not_counted_exists() -> None:
    for module in NOT_COUNTED:
        assert import_closure(module), module


def test_options_compute_nothing() -> None:
    """So a stage gets all that it takes from its options in its rule's parameters, and their code need not count."""
    tree = ast.parse((SCRIPTS / "brainscm" / "config.py").read_text())
    for models in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for method in (node for node in models.body if isinstance(node, ast.FunctionDef)):
            assert any("validator" in ast.unparse(decorator) for decorator in method.decorator_list), method.name

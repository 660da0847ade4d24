"""The conda environments, the imports, the lock file and pyproject.toml speak of the same packages."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
import yaml
from packaging.requirements import Requirement

from brainscm.provenance import import_closure
from workflows import ROOT, scripted_rules

# Packages whose conda name is not their PyPI name.
PYPI_NAME = {"pytorch-gpu": "torch", "pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}
# What modules need without importing it.
NOT_IMPORTED = {
    "brainscm.cohort.dicom": "dcm2niix",  # the program
    "brainscm.preprocess.network": "deepbet",  # files in its wheel
    "brainscm.simulation.anatomy": "nilearn",  # a file in its wheel
}
PACKAGE_OF = {module: names[0].lower() for module, names in packages_distributions().items()}
ENVIRONMENTS = sorted(path.stem for path in (ROOT / "envs").glob("*.yaml"))
# The environment of each rule.
RULES = {rule: re.findall(r'"\.\./envs/(.+?)\.yaml"', text)[0] for rule, text in scripted_rules().items()}


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def pins(environment: str) -> dict[str, str]:
    """The versions of an environment's packages, by their PyPI names."""
    dependencies = yaml.safe_load((ROOT / "envs" / f"{environment}.yaml").read_text())["dependencies"]
    from_pip = [each for group in dependencies if isinstance(group, dict) for each in group["pip"]]
    from_conda = [each for each in dependencies if isinstance(each, str) and each != "pip"]
    versions = dict(dependency.split("=") for dependency in from_conda)
    versions |= dict(dependency.split("==") for dependency in from_pip)
    del versions["python"]
    return {PYPI_NAME.get(name, name): version for name, version in versions.items()}


def needed(rule: str) -> set[str]:
    """The packages that a rule's script imports, itself or through the library, by their PyPI names."""
    closure = import_closure(rule)
    modules = {name.split(".")[0] for module in closure.values() for name in module.imports}
    imported = {PACKAGE_OF[module] for module in modules - {"brainscm"} - sys.stdlib_module_names}
    return imported | {package for module, package in NOT_IMPORTED.items() if module in closure}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_environment_pins_what_the_lock_file_pins(environment: str) -> None:
    assert pins(environment).items() <= locked().items()


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_rules_environment_has_what_its_script_imports(rule: str) -> None:
    assert needed(rule) - set(pins(RULES[rule])) == set(), f"missing in {RULES[rule]}.yaml"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_has_nothing_that_no_rule_needs(environment: str) -> None:
    used = [needed(rule) for rule, named in RULES.items() if named == environment]
    assert set(pins(environment)) - set().union(*used) == set()


def test_what_is_needed_without_an_import_is_needed_by_a_rule() -> None:
    assert set(NOT_IMPORTED) <= {module for rule in RULES for module in import_closure(rule)}


def test_lock_file_lies_within_the_ranges_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"] + project["optional-dependencies"]["slurm"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(locked()[requirement.name]), text


def test_make_lets_python_keep_what_it_compiles() -> None:
    done = subprocess.run(
        ["make", "--eval", "told: ; @env", "told"],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        text=True,
        capture_output=True,
        check=True,
    )
    assert "PATH=" in done.stdout
    assert "PYTHONDONTWRITEBYTECODE" not in done.stdout

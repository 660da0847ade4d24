"""The conda environments, the lock file and pyproject.toml speak of the same packages."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
# Packages whose conda name is not their PyPI name.
PYPI_NAME = {"pytorch-gpu": "torch", "matplotlib-base": "matplotlib"}


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda path: path.stem)
def test_environment_pins_what_the_lock_file_pins(path: Path) -> None:
    for dependency in yaml.safe_load(path.read_text())["dependencies"]:
        name, version = dependency.split("=")
        if name != "python":
            assert locked()[PYPI_NAME.get(name, name)] == version, dependency


def test_every_environment_that_a_rule_names_exists() -> None:
    for rules in (ROOT / "rules").glob("*.smk"):
        for name in re.findall(r'"\.\./envs/(.+?)"', rules.read_text()):
            assert (ROOT / "envs" / name).exists(), f"{rules.name}: {name}"


def test_lock_file_lies_within_the_ranges_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"] + project["optional-dependencies"]["slurm"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(locked()[requirement.name]), text

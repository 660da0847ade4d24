"""The container recipes, which cannot be built here: what they copy, install and run is what there is."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workflows import ROOT

TOP = "/opt/brainscm"
DOCKER, APPTAINER = (ROOT / "envs" / name for name in ("Dockerfile", "brainscm.def"))


def copied(recipe: Path) -> dict[str, str]:
    """Where each file or folder of the checkout goes."""
    text = recipe.read_text()
    if recipe == APPTAINER:
        (files,) = re.findall(r"^%files\n(.*?)\n\n", text, flags=re.DOTALL | re.MULTILINE)
        return dict(line.split() for line in files.splitlines())
    places = {}
    for line in re.findall(r"^COPY (.+)$", text, flags=re.MULTILINE):
        *sources, place = line.split()
        places.update({source: place + source if place.endswith("/") else place for source in sources})
    return places


def commands(recipe: Path) -> list[str]:
    """What is run while the image is built."""
    lines = re.findall(r"^(?:RUN |    )((?:pip|cd) .+)$", recipe.read_text(), flags=re.MULTILINE)
    return [str(line) for line in lines]


def test_both_recipes_start_copy_and_run_the_same() -> None:
    assert copied(DOCKER) == copied(APPTAINER)
    assert commands(DOCKER) == commands(APPTAINER)
    bases = [
        re.findall(r"^F(?:rom:|ROM) (.+)$", recipe.read_text(), flags=re.MULTILINE) for recipe in (DOCKER, APPTAINER)
    ]
    assert bases == [["python:3.11-slim-bookworm"]] * 2


@pytest.mark.parametrize("recipe", [DOCKER, APPTAINER], ids=lambda recipe: recipe.name)
def test_exactly_the_lock_file_is_installed(recipe: Path) -> None:
    install, check = commands(recipe)
    assert install == f"pip install --no-cache-dir --no-deps --requirement {copied(recipe)['requirements.lock']}"
    assert check.startswith("cd /tmp && snakemake")
    assert recipe.read_text().count("install") == 1


def test_what_is_copied_plans_the_demo(tmp_path: Path) -> None:
    top = tmp_path / "brainscm"
    for source, place in copied(DOCKER).items():
        target = Path(place.replace(TOP, str(top)))
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, target)
    command = commands(DOCKER)[1].removeprefix("cd /tmp && ").replace(TOP, str(top)).split()
    done = subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

"""What docs/extending.md shows how to add works: its blocks, applied to a copy of the code, and what they add tried."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extending.md"
COPIED = ("scripts", "report", "schemas", "config.yaml", "demo.yaml")
MOST_FILES_OF_CODE = 2


class Block(NamedTuple):
    """What a section of the page changes in one file; lines begin with `+`, `-` or a space."""

    section: str
    file: str
    lines: list[str]


def blocks() -> list[Block]:
    found = []
    for section in PAGE.read_text().split("\n## ")[1:]:
        for block in re.findall(r"^```diff\n\+\+\+ (.+?)^```$", section, flags=re.DOTALL | re.MULTILINE):
            file, *lines = block.splitlines()
            found.append(Block(section.partition("\n")[0], file, lines))
    return found


def apply(block: Block, folder: Path) -> None:
    """Each hunk replaces what it shows, which stands in the file once; a file that is not there is written."""
    path = folder / block.file
    if not path.exists():
        path.write_text("".join(f"{line.removeprefix('+')}\n" for line in block.lines))
        return
    text = path.read_text()
    for hunk in "\n".join(block.lines).split("\n@@\n"):
        before, after = (
            "".join(f"{line[1:]}\n" for line in hunk.splitlines() if not line.startswith(other)) for other in "+-"
        )
        assert text.count(before) == 1, f"{block.file} no longer holds, or holds more than once:\n{before}"
        text = text.replace(before, after)
    path.write_text(text)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code in which all that the page shows is done, `make schema` too."""
    folder = tmp_path_factory.mktemp("extended")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    (folder / "docs" / "reference").mkdir(parents=True)
    for block in blocks():
        apply(block, folder)
    run(folder, "-m", "brainscm.config_files")
    return folder


def run(folder: Path, *arguments: str) -> None:
    paths = [folder / "scripts", ROOT / "tests", ROOT / "tests" / "unit"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


CHECKS = {
    "A node family": """
        import numpy as np, pandas as pd
        from brainscm.config import ScmOptions
        from brainscm.scm.model import Scm
        rng = np.random.default_rng(0)
        ids, age = [str(i) for i in range(500)], rng.uniform(20, 80, 500)
        volume = np.exp(1 + 0.02 * age + 0.3 * rng.normal(size=500))
        table = pd.DataFrame({"scan": ids, "participant": ids, "split": "train", "age": age, "volume": volume})
        nodes = {"age": {}, "volume": {"formula": "age", "family": "lognormal"}}
        options = ScmOptions.model_validate({"nodes": nodes, "image": {"formula": "age + volume"}})
        scm = Scm.fit(table, rng.normal(size=(500, 2)), options, seed=1)
        older = scm.intervene(table, {"age": "+10"})["volume"]
        np.testing.assert_allclose(older, volume * np.exp(10 * scm.nodes["volume"].parameters[1]), rtol=1e-9)
        np.testing.assert_allclose(scm.nodes["volume"].parameters, [1, 0.02], atol=0.1)
        """,
    "A decode strategy": """
        import numpy as np
        import test_evaluation_answers as answers
        from brainscm.config import QueryOptions
        from brainscm.evaluation.answers import EncodedScan
        assert QueryOptions(name="older", do={"age": "+10"}, decode="doubled").decode == "doubled"
        encoded = EncodedScan.of(answers.SCAN, answers.METHODS)
        assert encoded.start_ml["doubled"] == encoded.own_ml
        found = answers.answers(answers.prepared("residual"), written=None)
        twice, once = found["latent_glm", "doubled"].difference, found["latent_glm", "residual"].difference
        assert once.any() and np.array_equal(twice, 2 * once)
        """,
    "A quality measure": """
        import numpy as np
        from brainscm.config import QualityOptions
        from brainscm.images import Image
        from brainscm.qc.limits import apply_limits
        from brainscm.qc.measures import mask_metrics
        mask = np.zeros((8, 8, 8), np.uint8)
        mask[1:3, 1:3, 1:3] = mask[5:7, 5:7, 5:7] = 1
        metrics = {"mask_pieces": mask_metrics(Image(mask, np.eye(4)))["mask_pieces"]}
        assert apply_limits(metrics, QualityOptions()) == (
            "warn", ["the mask is in 2 pieces: look at the mask (warn above 1)"])
        assert apply_limits(metrics, QualityOptions(mask_pieces_warn=2)) == ("pass", [])
        """,
    "A region": """
        import numpy as np
        from brainscm.preprocess.template import EMBEDDED, load_template
        from brainscm.preprocess.tissues import MeasureTissues
        from brainscm.qc.measures import MEASURES
        from brainscm.regions import Geometry
        template = load_template(EMBEDDED, 4.0)
        brain = (0.7 * template.gm + 1.0 * template.wm + 0.25 * template.csf).astype(np.float32)
        measured = MeasureTissues(template)(brain, Geometry(template.brain_mask)).volumes_ml(brain)
        assert 0.4 < measured["left_ventricles"] / measured["ventricles"] < 0.6
        assert MEASURES["left_ventricles_ml"].label == "Left ventricles"
        """,
    "A report page": """
        from pathlib import Path
        from types import SimpleNamespace
        from brainscm.report import render
        from made_up_scans import write_scans
        added, = [page for page in render.PAGES if page.file == "splits.html"]
        scans = write_scans(Path("split_scans"), ["train", "train", "test"])
        study = SimpleNamespace(name="Study", key="study", command="snakemake", scans=scans, bundle=None)
        render._Writer(study, Path("pages")).write(added.file, f"{added.file}.j2", added.context(study, None))
        page = Path("pages/splits.html").read_text()
        assert "<p>train: 2 scans</p><p>test: 1 scans</p>" in page
        assert '<a href="splits.html" aria-current="page">Splits</a>' in page
        """,
    "An encoder": """
        from pathlib import Path
        import torch
        from brainscm.encoding.model import load_encoder, save_encoder
        from brainscm.training.fit import fit_autoencoder
        from made_up_scans import GRID, write_scans
        from test_training_fit import IDENTITY, SPLITS, task_in
        write_scans(Path("scans"), SPLITS, is_aligned=True)
        for alignment in ("none", "deformable"):
            fitted = fit_autoencoder(task_in(Path("scans"), kind="coarse", alignment=alignment)).encoder
            save_encoder(fitted, IDENTITY, Path("model.pt"))
            loaded, volumes = load_encoder(Path("model.pt")), torch.rand(2, 1, *GRID.shape)
            assert loaded.kind == "coarse"
            assert loaded.encode(volumes).shape == (2, *loaded.latent_shape) == (2, 1, 4, 4, 8)
            assert loaded.decode(loaded.encode(volumes)).shape == volumes.shape
        """,
}


# Of each check its traceback, or nothing: in one interpreter, since each loads the library anew.
TRY_ALL = """
import json, traceback
told = {}
for task, check in json.loads(open("checks.json").read()).items():
    try:
        exec(compile(check, task, "exec"), {})
        told[task] = ""
    except Exception:
        told[task] = traceback.format_exc()
open("told.json", "w").write(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(extended: Path) -> dict[str, str]:
    """What went wrong in each check."""
    (extended / "checks.json").write_text(json.dumps({task: dedent(check) for task, check in CHECKS.items()}))
    run(extended, "-c", TRY_ALL)
    found: dict[str, str] = json.loads((extended / "told.json").read_text())
    return found


@pytest.mark.parametrize("task", CHECKS)
def test_what_is_added_as_the_page_says_works(told: dict[str, str], task: str) -> None:
    assert told[task] == ""


def test_each_task_is_tried_and_touches_at_most_two_files_of_code() -> None:
    code: dict[str, set[str]] = {}
    for block in blocks():
        code.setdefault(block.section, set()).update({block.file} if block.file.endswith(".py") else ())
    assert set(code) == set(CHECKS)
    assert all(len(files) <= MOST_FILES_OF_CODE for files in code.values())


def test_the_tests_that_the_page_names_exist() -> None:
    named = re.findall(r"`(tests/\S+\.py)`", PAGE.read_text())
    assert len(named) > len(CHECKS)
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_what_is_added_is_in_what_is_written_of_the_options(extended: Path) -> None:
    schema = (extended / "schemas" / "config.schema.json").read_text()
    assert all(word in schema for word in ("lognormal", "doubled", "mask_pieces_warn", "coarse"))

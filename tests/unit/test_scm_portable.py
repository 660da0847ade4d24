"""A causal model without its training participants: the same answers to the last bit, and no id in its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from brainscm.config import ScmOptions
from brainscm.errors import ConfigError
from brainscm.scm.model import Scm, load_scm
from brainscm.scm.portable import FILES, load_fitted, load_portable, save_portable

FORMULAS = (
    "cr(age, df=4) + sex * volume + C(site, contr.helmert)",
    "bs(age, df=5) + sex + site:volume",
    "cc(age, df=4) + standardize(volume) + C(site)",
    "poly(age, degree=3) + log(volume) + sex",
    "I(age > 50) + scale(volume) + center(age):sex",
)


def fit(formula: str, missing: str = "drop", variance_by: str | None = None) -> tuple[Scm, pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(3)
    n = 80
    age = rng.uniform(20, 80, n)
    table = pd.DataFrame(
        {
            "scan": [f"sub-{i:03d}_ses-{i % 2}" for i in range(n)],
            "participant": [f"sub-{i // 2 * 2:03d}" for i in range(n)],
            "split": np.where(np.arange(n) < 60, "train", "test"),
            "age": age,
            "sex": rng.choice(["F", "M"], n),
            "site": rng.choice(["A", "B", "C"], n),
            "volume": 20 + 0.3 * age + rng.normal(0, 2, n),
            "kind": rng.choice(["x", "y"], n),
        }
    )
    table.loc[3, "volume"] = np.nan
    options = ScmOptions.model_validate(
        {
            "nodes": {
                "age": {"unit": "years"},
                "sex": {},
                "site": {"levels": ["C", "A", "B"]},
                "volume": {"formula": "cr(age, df=3) + sex", "family": "gamma"},
                "kind": {"formula": "age + offset(log(volume))"},
            },
            "image": {"formula": formula, "variance_by": variance_by},
            "missing": missing,
        }
    )
    latents = (0.05 * age[:, None, None, None, None] + rng.normal(size=(n, 2, 2, 2, 2))).astype(np.float32)
    return Scm.fit(table, latents, options, seed=5), table, latents


@pytest.mark.parametrize("formula", FORMULAS)
def test_answers_are_the_same_to_the_last_bit(formula: str, tmp_path: Path) -> None:
    scm, table, _ = fit(formula, missing="impute", variance_by="site")
    save_portable(scm, tmp_path / "bundle")
    portable = load_fitted(tmp_path / "bundle", scm.options)
    scm.save(tmp_path / "study")
    scm = load_fitted(tmp_path / "study", scm.options)
    rows = table[table["split"] == "test"]
    assert len(portable.training) == 0
    for do in ({"age": "+10"}, {"sex": "M", "age": 61.5}, {"site": "B"}):
        for k in (None, 2):
            here, there = (model if k is None else model.draw(k) for model in (scm, portable))
            changed = here.intervene(rows, do)
            pd.testing.assert_frame_equal(changed, there.intervene(rows, do), check_exact=True)
            x = here.design_matrix(changed)
            np.testing.assert_array_equal(x, there.design_matrix(changed))
            np.testing.assert_array_equal(here.image.predict(x), there.image.predict(x))
        told = scm.support(scm.intervene(rows, do), tuple(do))
        pd.testing.assert_frame_equal(told, portable.support(scm.intervene(rows, do), tuple(do)), check_exact=True)
    alone = rows.iloc[[0]].assign(site="D", age=np.nan)
    assert portable.problems(alone).tolist() == scm.problems(alone).tolist()


def test_files_hold_nobody(tmp_path: Path) -> None:
    scm, _, _ = fit(FORMULAS[0], variance_by="site")
    save_portable(scm, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    ages = scm.training["age"].to_numpy()
    inner = ages[(ages > ages.min()) & (ages < ages.max())]
    knots = set(scm.design._spec.transform_state["cr(age, df=4)"]["knots"])
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert b"sub-" not in content, path
        assert not [age for age in inner if repr(float(age)).encode() in content and age not in knots]
    with np.load(tmp_path / "image_model.npz") as stored:
        assert [name for name in stored.files if len(scm.training) in stored[name].shape] == []


def test_a_study_of_its_own_is_loaded_from_its_own_files(tmp_path: Path) -> None:
    scm, _, _ = fit(FORMULAS[0])
    scm.save(tmp_path)
    pd.testing.assert_frame_equal(load_fitted(tmp_path, scm.options).training, load_scm(tmp_path, scm.options).training)


def test_another_graph_is_refused(tmp_path: Path) -> None:
    scm, _, _ = fit(FORMULAS[0])
    save_portable(scm, tmp_path)
    changed: dict[str, Any] = scm.options.model_dump()
    changed["image"]["formula"] = "age + sex"
    with pytest.raises(ConfigError, match="graph has changed"):
        load_portable(tmp_path, ScmOptions.model_validate(changed))

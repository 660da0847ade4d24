"""A site that was not in training: what its controls teach, what that gains, and when it is refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from brainscm.config import Config, ScmOptions
from brainscm.encoding.layout import Layout
from brainscm.errors import ConfigError
from brainscm.identity import Identity
from brainscm.latents.store import LatentStore
from brainscm.scm.covariates import check_new_values
from brainscm.scm.model import Scm
from brainscm.scm.new_level_controls import NEEDED, check_new_levels, foreseen
from brainscm.scm.new_levels import estimated_levels, with_new_levels

SHAPE = (6, 4, 4, 4)
LAYOUT = Layout((3, 3))
IDENTITY = Identity(template="T", voxel_mm=3, transform="affine")
GRAPH = {
    "nodes": {
        "age": {"unit": "years"},
        "site": {},
        "diagnosis": {"levels": ["CN", "AD"]},
        "thickness": {"formula": "age"},
    },
    "image": {"formula": "age + site + diagnosis + thickness", "shrinkage": "none"},
}
CONTROLS = {"site": "diagnosis == 'CN'"}


class World:
    """Participants whose latents are linear in age, site and diagnosis; sites differ in the first three channels."""

    def __init__(self, seed: int = 0, site_effect: float = 1.0) -> None:
        self.rng = np.random.default_rng(seed)
        self.of_site = {site: self.rng.normal(0, site_effect, SHAPE) for site in "ABC"}
        for effect in self.of_site.values():
            effect[3:] = 0
        self.of_age, self.ill = self.rng.normal(0, 0.02, SHAPE), self.rng.normal(0, 1, SHAPE)

    def people(self, sites: str, n: int, split: str) -> tuple[pd.DataFrame, np.ndarray]:
        age, site = self.rng.uniform(40, 80, n), self.rng.choice(list(sites), n)
        diagnosis = self.rng.choice(["CN", "AD"], n)
        ids = [f"sub-{sites}{number:03d}" for number in range(n)]
        thickness = 3 - 0.01 * age + self.rng.normal(0, 0.1, n)
        table = pd.DataFrame({"scan": ids, "participant": ids, "split": split, "age": age, "site": site})
        table = table.assign(diagnosis=diagnosis, thickness=thickness).set_index("scan", drop=False)
        noise = self.rng.normal(0, 1, (n, *SHAPE))
        parts = zip(age, site, diagnosis, noise, strict=True)
        z = [a * self.of_age + self.of_site[s] + (d == "AD") * self.ill + u for a, s, d, u in parts]
        return table.rename_axis(None), np.array(z, dtype=np.float32)


def fitted(world: World) -> Scm:
    table, latents = world.people("AB", 120, "train")
    return Scm.fit(table, latents, ScmOptions.model_validate(GRAPH), seed=1, layout=LAYOUT, identity=IDENTITY)


def store_of(table: pd.DataFrame, latents: np.ndarray) -> LatentStore:
    return LatentStore(latents, list(table["scan"]), LAYOUT, IDENTITY)


def error(scm: Scm, table: pd.DataFrame, truth: np.ndarray) -> float:
    """Of what is expected of people, root mean square, in the channels in which sites differ."""
    return float(np.sqrt(np.mean((scm.image.predict(scm.design_matrix(table)) - truth)[:, :3] ** 2)))


def test_controls_of_a_new_site_bring_its_other_scans_nearer_and_more_of_them_more() -> None:
    """Held-out people of the new site, against what the world expects of them; unknown, they count as the first."""
    world = World()
    scm = fitted(world)
    held, _ = world.people("C", 60, "test")
    people = zip(held["age"], held["diagnosis"], strict=True)
    expected = np.array([a * world.of_age + world.of_site["C"] + (d == "AD") * world.ill for a, d in people])
    unknown = error(scm, held.assign(site="A"), expected)
    errors = []
    for n in (24, 240):
        table, own = world.people("C", n, "test")
        known = with_new_levels(scm, table, CONTROLS, store_of(table, own))
        assert (known.problems(held) == "").all()
        errors.append(error(known, held, expected))
    assert errors[0] < 0.4 * unknown
    assert errors[1] < 0.8 * errors[0]  # what is left is the error of the fitted study itself
    moved = known.intervene(held, {"site": "A"})
    step = known.design_matrix(moved) - known.design_matrix(held)
    true_step = world.of_site["A"] - world.of_site["C"]
    assert np.sqrt(np.mean((known.image.predict(step) - true_step) ** 2)) < 0.3 * np.sqrt(np.mean(true_step**2))


def test_where_a_site_does_nothing_little_is_made_of_its_controls_noise() -> None:
    world = World(site_effect=0.0)
    table, own = world.people("C", 30, "test")
    known = with_new_levels(fitted(world), table, CONTROLS, store_of(table, own))
    noise = 1 / np.sqrt((table["diagnosis"] == "CN").sum())
    assert np.sqrt(np.mean(known.image.coefficients[-1] ** 2)) < 0.6 * noise


def test_the_draws_hold_how_far_off_an_estimate_is() -> None:
    ratios = []
    for seed in range(8):
        world = World(seed)
        table, own = world.people("C", 40, "test")
        known = with_new_levels(fitted(world), table, CONTROLS, store_of(table, own))
        rows = known.design_matrix(table)[:1] - known.design_matrix(table.assign(site="A"))[:1]
        off = known.image.predict(rows)[0] - (world.of_site["C"] - world.of_site["A"])
        drawn = np.array([known.image.deviate(rows, k)[0] for k in range(known.draws)])
        ratios.append(np.mean(drawn[:, :3] ** 2) / np.mean(off[:3] ** 2))
        # Where the site does nothing, all draws hold what shrinkage has taken away: it may be there.
        noise = 1 / (table["diagnosis"] == "CN").sum()
        assert np.mean(drawn.mean(axis=0)[3:] ** 2) > 0.6 * noise
    assert 0.7 < np.mean(ratios) < 1.5


def test_leverage_is_that_of_a_design_with_its_controls_in_it_and_they_are_near() -> None:
    world = World()
    scm = fitted(world)
    table, own = world.people("C", 30, "test")
    known = with_new_levels(scm, table, CONTROLS, store_of(table, own))
    controls = table[table["diagnosis"] == "CN"]
    x, mean = scm.design_matrix(scm.training), known.design_matrix(controls).mean(axis=0)
    stacked = np.vstack([np.pad(x, ((0, 0), (0, 1))), np.tile(mean, (len(controls), 1))])
    rows = known.design_matrix(table)
    expected = np.einsum("ni,ij,nj->n", rows, np.linalg.inv(stacked.T @ stacked), rows)
    np.testing.assert_allclose(known.image.leverage(rows), expected, rtol=1e-8)
    assert known.support(controls)["positivity"].min() >= 1
    assert known.support(table.assign(age=200.0))["positivity"].max() == 0
    planned = with_new_levels(scm, table, CONTROLS, None)
    pd.testing.assert_frame_equal(planned.support(table), known.support(table))


def test_scans_of_sites_that_were_there_are_answered_as_before() -> None:
    world = World()
    scm = fitted(world)
    table, own = world.people("C", 30, "test")
    known = with_new_levels(scm, table, CONTROLS, store_of(table, own))
    older = scm.intervene(scm.training, {"age": "+10"})
    steps = [model.design_matrix(older) - model.design_matrix(scm.training) for model in (scm, known)]
    before, after = (
        np.stack([model.image.predict(step), model.image.deviate(step, 3)])
        for model, step in zip((scm, known), steps, strict=True)
    )
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    assert estimated_levels(scm) == {}
    assert list(estimated_levels(known)["NewLevels"]) == ["site[C]"]
    again = with_new_levels(scm, table, CONTROLS, store_of(table, own[::-1].copy()))
    assert estimated_levels(again) != estimated_levels(known)  # other controls: volumes are made anew


def test_too_few_controls_are_told_and_their_scans_stay_unanswered(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    scm = fitted(world)
    table, own = world.people("C", 3 * NEEDED, "test")
    few = table.assign(diagnosis=np.where(np.arange(len(table)) < NEEDED - 1, "CN", "AD"))
    known = with_new_levels(scm, few, CONTROLS, store_of(few, own))
    assert "9 controls, of 10 that are needed" in caplog.text
    assert (known.problems(few) == "site 'C' is not a training level").all()
    levels, notes = foreseen(scm.covariates, CONTROLS, few)
    assert (levels, notes) == ({"site": ()}, [])
    with pytest.raises(ConfigError, match="site is 'C' in the new scans"):
        check_new_values(scm.options, scm.covariates, [], few, estimated=levels)
    levels, notes = foreseen(scm.covariates, CONTROLS, table)
    assert levels == {"site": ("C",)}
    assert notes[0][1].startswith("'C' is estimated from")
    assert check_new_values(scm.options, scm.covariates, [], table, estimated=levels) == []


def test_a_study_without_a_bundle_has_no_new_levels() -> None:
    with pytest.raises(ValueError, match="new_levels is given, and no bundle"):
        Config.model_validate({"new_levels": CONTROLS})


@pytest.mark.parametrize(("node", "told"), [("age", "not a node with levels"), ("site", "has a formula of thickness")])
def test_what_stands_in_another_formula_cannot_be_estimated(node: str, told: str) -> None:
    nodes = {**GRAPH["nodes"], "thickness": {"formula": "age + site"}}
    scm = fitted(World())
    options = ScmOptions.model_validate({**GRAPH, "nodes": nodes})
    with pytest.raises(ConfigError, match=told):
        check_new_levels(options, replace(scm.covariates), {node: "age > 3"})

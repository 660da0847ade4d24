"""Draws that move a counterfactual on: near what decoding each anew makes, the same where nothing differs."""

from copy import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_alignment_registration import alignment_to, smooth_displacement, texture
from test_encoding_aligned import LEVELS
from torch import Tensor

from brainscm.alignment.displacement import align
from brainscm.config import QueryOptions, ScmOptions
from brainscm.counterfactuals.prediction import Draws, predict
from brainscm.counterfactuals.queries import Plan, plan_query
from brainscm.encoding.aligned import Aligned
from brainscm.encoding.encoder import Factual
from brainscm.encoding.pca import PCA
from brainscm.scm.model import Scm

N = 24
INSIDE = texture() > 0.3


class Study:
    """Scans that are displaced, and grow darker, with age; each also in its own way."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.age = rng.uniform(40, 80, N)
        away = smooth_displacement(1, 1.0)
        self.displacements = [
            (age - 60) / 30 * away + smooth_displacement(10 + i, 1.0) for i, age in enumerate(self.age)
        ]
        self.scans = torch.stack(
            [
                align(texture() * (1.1 - 0.002 * age) + 0.02 * texture(50 + i), u)
                for i, (age, u) in enumerate(zip(self.age, self.displacements, strict=True))
            ]
        )[:, None].clamp(min=0) * (texture() > 0.05)
        appearances = torch.stack([0.95 * texture() + 0.05 * texture(seed) for seed in range(1, 7)])
        self.encoder = Aligned(PCA.fit(appearances[:, None].numpy(), 5), alignment_to(texture()))
        back = torch.stack([-u for u in self.displacements])
        self.latents = self.encoder.encode(self.scans, back, [LEVELS] * N)
        self.table = pd.DataFrame({"scan": [f"sub-{i}" for i in range(N)], "age": self.age, "split": "train"})
        self.table = self.table.assign(participant=self.table["scan"]).set_index("scan", drop=False).rename_axis(None)
        declared = {"nodes": {"age": {}}, "image": {"formula": "age", "shrinkage": "none"}}
        layout = self.encoder.layout
        self.scm = Scm.fit(self.table, self.latents.numpy(), ScmOptions.model_validate(declared), seed=0, layout=layout)

    def factual(self, at: int) -> Factual:
        return Factual(self.encoder, self.scans[[at]], self.latents[[at]], [LEVELS])

    def plan(self, change: str = "+15") -> Plan:
        return plan_query(self.scm, self.table, QueryOptions(name="older", do={"age": change}))

    def drawn(self, at: int, decoded: bool, plan: Plan | None = None) -> tuple[Tensor, Tensor]:
        """The counterfactual (x, y, z), and what draws make of it, (K, x, y, z)."""
        plan, one = plan or self.plan(), slice(at, at + 1)
        made = predict(self.factual(at), self.scm.image, plan.step[one], "residual")
        volumes = Draws(self.encoder, self.scm.image).volumes(
            self.factual(at), made, plan.step[one], plan.drawn_steps[:, one], "residual", decoded
        )
        return made.volume[0, 0], torch.cat(list(volumes))[:, 0]


@pytest.fixture(scope="module")
def study() -> Study:
    return Study()


def test_the_map_is_that_of_draws_that_are_decoded(study: Study) -> None:
    for at in (3, 11):
        volume, moved = study.drawn(at, decoded=False)
        same, decoded = study.drawn(at, decoded=True)
        assert torch.equal(volume, same)
        maps = [(each - volume).square().mean(0).sqrt()[INSIDE] for each in (moved, decoded)]
        assert maps[1].mean() > 0.005
        assert torch.corrcoef(torch.stack(maps))[0, 1] > 0.9
        assert 0.95 < maps[0].mean() / maps[1].mean() < 1.05
        # And draw by draw, so that regional volumes differ as they do when each is decoded.
        pairs = [torch.stack([a - volume, b - volume])[:, INSIDE] for a, b in zip(moved, decoded, strict=True)]
        assert min(float(torch.corrcoef(pair)[0, 1]) for pair in pairs) > 0.8


@pytest.mark.parametrize(
    ("parts", "least"),
    [(slice(0, 2), 0.995), (slice(2, 4), 0.7), (slice(4, 5), 0.95)],
    ids=["displacement", "density", "appearance"],
)
def test_each_part_of_a_shift_is_followed(study: Study, parts: slice, least: float) -> None:
    """As far as it can: where borders move, eight rounds of that are no smooth function of what is asked."""
    kept = np.zeros(len(study.encoder.layout.parts))
    kept[parts] = 1
    only = np.repeat(kept, study.encoder.layout.parts)[:, None, None, None].astype(np.float32)
    image = study.scm.image
    alone = copy(study)
    alone.scm = replace(
        study.scm, image=replace(image, coefficients=image.coefficients * only, draws=4 * image.draws * only)
    )
    volume, moved = alone.drawn(3, decoded=False)
    _, decoded = alone.drawn(3, decoded=True)
    both = torch.stack([(moved - volume)[:, INSIDE].flatten(), (decoded - volume)[:, INSIDE].flatten()])
    assert both[1].square().mean().sqrt() > 1e-3
    assert torch.corrcoef(both)[0, 1] > least


def test_nothing_is_decoded_or_inverted_for_a_draw(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    made = predict(study.factual(3), study.scm.image, study.plan().step[3:4], "residual")
    draws = Draws(study.encoder, study.scm.image)
    decodings: list[int] = []
    decode = study.encoder.inner.decode
    monkeypatch.setattr(study.encoder.inner, "decode", lambda latents: decodings.append(1) or decode(latents))
    for _ in range(2):
        plan = study.plan()
        list(draws.volumes(study.factual(3), made, plan.step[3:4], plan.drawn_steps[:, 3:4], "residual", decoded=False))
        found = len(decodings)
    assert (
        found == len(decodings) == study.scm.draws + 1
    )  # the slope of each draw along age, from the mean, the first time


def test_a_question_that_changes_nothing_is_certain_to_the_last_bit(study: Study) -> None:
    volume, moved = study.drawn(3, decoded=False, plan=study.plan("+0"))
    assert torch.equal(volume, study.scans[3, 0])
    assert (moved == volume).all()


def test_an_encoder_that_is_not_aligned_decodes_each_draw(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = PCA.fit(study.scans.numpy(), 6)
    latents = inner.encode(study.scans)
    options = ScmOptions.model_validate({"nodes": {"age": {}}, "image": {"formula": "age", "shrinkage": "none"}})
    scm = Scm.fit(study.table, latents.numpy(), options, seed=0, layout=inner.layout)
    plan, factual = study.plan(), Factual(inner, study.scans[[3]], latents[[3]])
    made = predict(factual, scm.image, plan.step[3:4], "residual")
    given = (factual, made, plan.step[3:4], plan.drawn_steps[:, 3:4], "residual")
    pairs = zip(*(Draws(inner, scm.image).volumes(*given, decoded) for decoded in (False, True)), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)

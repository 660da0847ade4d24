"""A level that a fitted study has not seen, such as this year's scanner, estimated from the new scans' own controls.

What a level does to the image is what its controls' latents have in common beside what the fitted model expects of
people like them at the reference level. Nothing else of the model changes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainscm.latents.store import LatentStore
from brainscm.scm.covariates import Names
from brainscm.scm.design import Array, Design
from brainscm.scm.model import Scm
from brainscm.scm.neighbours import Neighbours
from brainscm.scm.new_level_controls import NEEDED, check_new_levels, controls_of

logger = logging.getLogger("brainscm")


@dataclass(frozen=True)
class LevelledDesign(Design):
    """A design with a column more, for a level that `base` was not learnt on: elsewhere it is the reference level."""

    base: Design
    node: str
    known: Names
    level: str

    @classmethod
    def extend(cls, base: Design, node: str, known: Names, level: str) -> LevelledDesign:
        own = {field.name: getattr(base, field.name) for field in fields(Design)}
        own |= {"columns": (*base.columns, f"{node}[{level}]"), "nodes": (*base.nodes, frozenset({node}))}
        return cls(**own, base=base, node=node, known=known, level=level)

    def evaluate(self, values: pd.DataFrame) -> Array:
        has_it = (values[self.node] == self.level).to_numpy()
        known = values[self.node].astype(object).mask(has_it, self.known[0])
        at_reference = pd.Series(pd.Categorical(known, categories=self.known), index=values.index)
        x = self.base.evaluate(values.assign(**{self.node: at_reference}))
        return np.column_stack([x, has_it.astype(np.float64)])


def with_new_levels(scm: Scm, rows: pd.DataFrame, controls: Mapping[str, str], store: LatentStore | None) -> Scm:
    """The model with the levels of some nodes that it has not seen, as far as enough new scans have them.

    Args:
        scm: of a fitted study. rows: of the new scans that can be used.
        controls: a filter by node, in words of the cohort's table: from whom its new levels are estimated.
        store: the new scans' latents; None for a plan, which makes no image: there a new level does nothing to it.

    Raises:
        ConfigError: see `check_new_levels` and `controls_of`.
    """
    check_new_levels(scm.options, scm.covariates, controls)
    for node, words in controls.items():
        for level, of_level in controls_of(scm.covariates, node, words, rows).items():
            extended = _extended(scm, node, level)
            usable = of_level[extended.problems(of_level) == ""]
            if usable["participant"].nunique() >= NEEDED:
                scm = _estimated(scm, extended, store, usable)
                logger.info("%s '%s': estimated from %d controls", node, level, usable["participant"].nunique())
            else:
                told = "%s '%s': %d controls, of %d that are needed; no question can be put to its scans"
                logger.warning(told, node, level, usable["participant"].nunique(), NEEDED)
    return scm


def estimated_levels(scm: Scm) -> dict[str, dict[str, str]]:
    """Of a side-car: a hash of what each new level does to the image; nothing where there are none."""
    columns = scm.image.columns[len(scm.image.columns) - _depth(scm.design) :]
    coefficients = scm.image.coefficients[len(scm.image.columns) - len(columns) :]
    found = {
        str(column): hashlib.sha256(each.tobytes()).hexdigest()
        for column, each in zip(columns, coefficients, strict=True)
    }
    return {"NewLevels": found} if found else {}


def _depth(design: Design) -> int:
    return 1 + _depth(design.base) if isinstance(design, LevelledDesign) else 0


def _extended(scm: Scm, node: str, level: str) -> Scm:
    """The model that can read a level, but does not know yet what that does."""
    known = scm.covariates.levels[node]
    assert known is not None
    covariates = replace(scm.covariates, levels={**scm.covariates.levels, node: (*known, level)})
    return replace(scm, covariates=covariates, design=LevelledDesign.extend(scm.design, node, known, level))


def _estimated(scm: Scm, extended: Scm, store: LatentStore | None, rows: pd.DataFrame) -> Scm:
    values = extended.values(rows)
    x = extended.design.matrix(values)[:, :-1]
    participants, codes = np.unique(rows["participant"].to_numpy(dtype=str), return_inverse=True)
    share = 1 / np.bincount(codes)[codes]  # of its participant that a scan is
    image, latent = scm.image, scm.image.coefficients.shape[1:]
    row, n = np.average(x, axis=0, weights=share), len(participants)
    coefficient, drawn = np.zeros(latent), np.zeros((len(image.draws), *latent), np.float32)
    if store is not None:
        own = np.zeros((n, *latent), np.float32)
        for at, scan in enumerate(rows["scan"]):
            own[codes[at]] += share[at] * (store.of(scan) - image.predict(x[[at]])[0])
        coefficient, drawn = _common(own, store.layout.parts, np.random.default_rng([scm.seed, 2]), len(drawn))
        drawn -= np.einsum("p,kp...->k...", row.astype(np.float32), image.draws)
    # As if the design had n rows more: the controls', whose mean is all that is used of them.
    below = np.sqrt(n) * np.append(row, 1.0)
    image = replace(
        image,
        columns=np.append(image.columns, extended.design.columns[-1]),
        coefficients=np.concatenate([image.coefficients, coefficient[None]]),
        r=np.linalg.qr(np.vstack([np.pad(image.r, ((0, 0), (0, 1))), below])).R,
        mean_row=np.append(image.mean_row, 0.0),
        draws=np.concatenate([image.draws, drawn[:, None]], axis=1),
    )
    return replace(extended, image=image, neighbours=_joined(scm.neighbours, values, rows["participant"]))


def _common(
    own: NDArray[np.float32], parts: tuple[int, ...], rng: np.random.Generator, draws: int
) -> tuple[Array, NDArray[np.float32]]:
    """What n latents (n, *latent) have in common, each part of it shrunk by its own noise (James and Stein 1961), and
    draws of its error (draws, *latent), which hold what that takes away, as those of the other coefficients do."""
    n, mean = len(own), own.mean(axis=0, dtype=np.float64)
    noise = np.square(own - mean.astype(np.float32)).sum(axis=0, dtype=np.float64) / (n - 1) / n
    of_part = np.repeat(np.arange(len(parts)), parts)
    signal, error = (
        np.bincount(of_part, weights=each.reshape(len(of_part), -1).sum(axis=1)) for each in (mean**2, noise)
    )
    kept = np.clip(1 - error / np.maximum(signal, np.finfo(float).tiny), 0, 1)[of_part]
    shrunk = mean * kept.reshape(-1, *[1] * (mean.ndim - 1))
    weights = rng.standard_normal((draws, n)).astype(np.float32)
    weights -= weights.mean(axis=1, keepdims=True)
    drawn = np.tensordot(weights, own, axes=1) / np.float32(np.sqrt(n * (n - 1)))
    return shrunk, drawn + (mean - shrunk).astype(np.float32)


def _joined(neighbours: Neighbours, values: pd.DataFrame, participants: pd.Series) -> Neighbours:
    """Those who are near, with controls among them."""
    ordered = values.loc[participants.sort_values(kind="stable").index]
    numbers = pd.factorize(participants.loc[ordered.index])[0] + len(neighbours.participants)
    known = neighbours.values.astype({name: object for name in values if name not in neighbours.sd})
    table = pd.concat([known, ordered.astype(known.dtypes.to_dict())], ignore_index=True)
    return replace(neighbours, values=table, participants=np.append(neighbours.participants, numbers))

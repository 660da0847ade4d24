"""Every method's answer to one case: the counterfactuals that are scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from brainscm.counterfactuals.decoding import STRATEGIES
from brainscm.encoding.encoder import Factual
from brainscm.evaluation.cases import Case
from brainscm.evaluation.inputs import EvaluationInputs
from brainscm.evaluation.methods import Methods
from brainscm.evaluation.questions import PreparedCase
from brainscm.evaluation.scan import Counterfactual, Scan
from brainscm.evaluation.truth import Truth
from brainscm.images import Volume


@dataclass(frozen=True)
class EncodedScan:
    """What all cases of one scan share.

    Attributes:
        factuals: method → the scan as it encodes it, for the compared methods.
        decoded: method → that encoding decoded, (x, y, z) inside the mask, where encoding loses anything.
        decoded_ml: method → the regions of `decoded`.
        start_ml: decoding → regions of what its change starts from: of direct decoding not the scan, but D(z).
    """

    scan: Scan
    factuals: Mapping[str, Factual]
    decoded: Mapping[str, Volume]
    decoded_ml: Mapping[str, Mapping[str, float]]
    start_ml: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, scan: Scan, methods: Methods) -> EncodedScan:
        factuals = methods.encode(scan)
        latent = factuals["latent_glm"]
        decoded = {name: factuals[name].decoded[0, 0].numpy() * scan.mask for name in ("pca_glm", "latent_glm")}
        decoded_ml = {name: scan.regions_ml(volume) for name, volume in decoded.items()}
        own_ml = scan.regions_ml(scan.volume)
        start_ml = {"none": own_ml, "residual": own_ml, "direct": decoded_ml["latent_glm"]}
        for decode in (name for name in STRATEGIES if name not in start_ml):
            unchanged, _ = STRATEGIES[decode](latent, torch.zeros_like(latent.latents))
            start_ml[decode] = scan.regions_ml(unchanged[0, 0].numpy() * scan.mask)
        return cls(scan, factuals, decoded, decoded_ml, start_ml)

    @property
    def own_ml(self) -> Mapping[str, float]:
        """Regions of the scan itself."""
        return self.start_ml["none"]


@dataclass(frozen=True)
class Answer:
    """A method's counterfactual, inside the brain mask; `decode` is `none` for what is not decoded.

    `is_written`: it was read from the study's files.
    """

    method: str
    decode: str
    made: Counterfactual
    is_written: bool = False


def answer(
    prepared: PreparedCase,
    encoded: EncodedScan,
    inputs: EvaluationInputs,
    methods: Methods,
    truth: Truth | None,
    with_ceilings: bool,
) -> Iterator[Answer]:
    """Every method's answer to one case, one after the other, since all of them would fill the memory.

    What the study has written is read; the rest is predicted here: other methods and decodings, and follow-ups. Two
    `ceiling`s encode the true answer itself: what an encoding could reach if the causal model made no error.

    Raises:
        ScanError: what the study has written cannot be read.
    """
    scan, step = encoded.scan, prepared.step
    voxels, scores, latent = (encoded.factuals[method.name] for method in methods.compared)

    def inside(method: str, made: Counterfactual, decode: str = "residual") -> Answer:
        return Answer(method, decode, made.masked(scan.mask))

    yield inside("voxel_glm", methods.voxel_glm.predict(voxels, step))
    yield inside("pca_glm", methods.pca_glm.predict(scores, step))
    for decode in STRATEGIES:
        written = _written(prepared.case, decode, inputs)
        if written is not None:
            yield Answer("latent_glm", decode, written, is_written=True)
        else:
            yield inside("latent_glm", methods.latent_glm.predict(latent, step, decode), decode)
    if truth is None:
        return
    yield inside("persistence", Counterfactual(scan.volume, np.zeros_like(scan.volume)), "none")
    if methods.voxel_shrunken is not None:
        yield inside("voxel_shrunken", methods.voxel_shrunken.predict(voxels, step))
    yield inside("mean_change", methods.voxel_glm.predict(voxels, prepared.mean_step))
    if with_ceilings:
        yield inside("pca_ceiling", methods.pca_glm.reach(scores, truth.volume))
        yield inside("latent_ceiling", methods.latent_glm.reach(latent, truth.volume))


def _written(case: Case, decode: str, inputs: EvaluationInputs) -> Counterfactual | None:
    """The volumes that the study's users look at, where this question was put to this scan."""
    if case.source == "follow-up" or decode != case.query.decode:
        return None
    return inputs.written.find(case.scan, case.query)

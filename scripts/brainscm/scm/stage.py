"""The SCM stage: from the study's latents to the model, its tests and diagnostics, and its effects as anatomy."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from brainscm.config import ScmOptions
from brainscm.images import Mask
from brainscm.latents.encoded import EncodedScans
from brainscm.parallel import device_of
from brainscm.regions import REGIONS, MeasureRegions
from brainscm.scm.claims import in_words
from brainscm.scm.comparison import compare_formulas
from brainscm.scm.designs import write_designs
from brainscm.scm.diagnostics import diagnose, held_out, residual_skewness, residual_variances
from brainscm.scm.effects import write_effect_maps
from brainscm.scm.error_rates import doubtful_p
from brainscm.scm.implications import implications
from brainscm.scm.inference import contrast_tests
from brainscm.scm.model import Scm
from brainscm.scm.places import places
from brainscm.scm.regional_effects import measured_effects
from brainscm.scm.residuals import residual_checks, residuals
from brainscm.scm.slope_spread import slope_spreads
from brainscm.tables import write_table

logger = logging.getLogger("brainscm")


def run(
    encoded: EncodedScans,
    options: ScmOptions,
    measure: MeasureRegions,
    brain_mask: Mask,
    seed: int,
    folder: Path,
) -> Scm:
    """Fit the SCM on the training scans, and write it and what is told of it.

    Args:
        encoded: the cohort; the image node is fitted and tested where its encoder is, on the CPU or a GPU.
        options: the graph.
        measure: regional volumes, of decoded brains inside the template's `brain_mask`.
        seed: of the workflow.
        folder: receives the model (see `Scm.save`), `tests.tsv`, `implications.tsv`, `formulas.tsv`, `residuals.tsv`,
            `diagnostics.tsv`, `people.tsv`, `regional_effects.tsv`, `designs/` and the maps in `effects/`.

    Raises:
        ConfigError: the graph does not fit the scans.
    """
    scans, store, device = encoded.scans, encoded.store, device_of(encoded.encoder)
    table = scans.rows.loc[list(store.scans)]
    scm = Scm.fit(table, store.latents, options, seed, store.layout, store.identity, device)
    scm.save(folder)
    logger.info("fitted on %d training scans", len(scm.training))

    sample = scm.sample(store.latents, store.rows(scm.training["scan"]))
    write_table(contrast_tests(scm, sample, device), folder / "tests.tsv")
    implied = implications(scm, sample, device)
    for _, row in implied[implied["conflict"] & implied["other"].notna()].iterrows():
        logger.warning("the data contradict the graph: %s (p = %.2g)", in_words(row), row["p_holm"])
    write_table(implied, folder / "implications.tsv")
    write_designs(scm, folder / "designs")
    write_table(compare_formulas(scm, table, store.latents, device), folder / "formulas.tsv")
    regions = [region.name for region in REGIONS]
    left = residuals(scm, table, regions, sample, device)
    write_table(left, folder / "residuals.tsv")
    diagnosed = diagnose(scm, offered=int((table["split"] == "train").sum()))
    further = [residual_variances(scm, sample, device), residual_skewness(scm, left, sample, device)]
    further.append(residual_checks(scm, left))
    further.append(doubtful_p(options.image, options.permutations if options.contrasts else 0))
    further.append(slope_spreads(scm, table, regions))
    further.append(held_out(scm, table, store.latents, device))
    write_table(pd.concat([diagnosed, *further]), folder / "diagnostics.tsv")

    write_table(places(scm, table, store.latents, regions, device), folder / "people.tsv")
    measured = measured_effects(scm, table, regions)
    levels = encoded.mean_levels(scm.training["scan"])
    decoded = write_effect_maps(scm, encoded.encoder, scans.grid, measure, brain_mask, folder / "effects", levels)
    write_table(pd.concat([measured, decoded]), folder / "regional_effects.tsv")
    return scm

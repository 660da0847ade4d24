"""The stage: open what a fitted study is, and answer some of its queries for a shard of the scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from brainscm.config import Config, QueryOptions, ScmOptions
from brainscm.counterfactuals.intervals import IntervalFactors
from brainscm.counterfactuals.origin import origin_of
from brainscm.counterfactuals.synthesis import Answers, synthesize
from brainscm.latents.encoded import EncodedScans
from brainscm.preprocess.template import load_template
from brainscm.preprocess.tissues import MeasureTissues
from brainscm.scm.new_levels import estimated_levels, with_new_levels
from brainscm.scm.portable import load_fitted
from brainscm.shards import Shard


def run(
    config: Config,
    scm_dir: Path,
    options: ScmOptions,
    encoded: EncodedScans,
    queries: Sequence[QueryOptions],
    intervals: Path,
    out_dir: Path,
    code: str,
    shard: Shard,
) -> Answers:
    """See `synthesize`.

    Args:
        scm_dir, options: of the fitted causal model, the study's own or its bundle's.
        intervals: the factors of intervals. code: the fingerprint of what makes the volumes.

    Raises:
        BrainSCMError: a file of the fitted study is not what was written.
        ConfigError: see `synthesize` and `with_new_levels`.
    """
    template = load_template(config.template, config.preprocess.voxel_mm, config.work_dir / "template")
    scm = with_new_levels(load_fitted(scm_dir, options), encoded.scans.usable, config.new_levels, encoded.store)
    return synthesize(
        scm=scm,
        encoded=encoded,
        queries=queries,
        measure=MeasureTissues(template),
        factors=IntervalFactors.read(intervals),
        out_dir=out_dir,
        origin=origin_of(config, scm_dir, code) | estimated_levels(scm),
        derivatives=config.derivatives,
        shard=shard,
        volumes=config.volumes,
    )

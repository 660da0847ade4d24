"""Evaluate the counterfactuals: what the scores of all shards say, realism, and the slopes across participants."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.evaluation.opening import open_inputs
    from brainscm.evaluation.scores import ShardScores
    from brainscm.evaluation.stage import gather
    from brainscm.shards import remove_other_dealings

    source, params = snakemake.input, snakemake.params
    shards = [Path(shard) for shard in source.scores]
    parts = [ShardScores.read(shard) for shard in shards]
    gather(open_inputs(source, params), parts, params.seed).write(Path(snakemake.output.summary).parent)
    remove_other_dealings(shards)

"""Score every method on the questions to a shard's test scans."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.evaluation.opening import open_inputs
    from brainscm.evaluation.peers import Peers
    from brainscm.evaluation.stage import score
    from brainscm.files import whole
    from brainscm.shards import Shard

    source, wildcards = snakemake.input, snakemake.wildcards
    inputs = open_inputs(source, snakemake.params)
    scores = score(inputs, Peers.read(Path(source.peers), inputs), Shard(int(wildcards.shard), int(wildcards.shards)))
    with whole(Path(snakemake.output.scores)) as folder:
        folder.mkdir()
        scores.write(folder)

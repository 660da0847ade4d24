"""Tell what the study's questions will cost, and which of them its data can answer, without making any image."""

from pathlib import Path

from brainscm.job import job

with job(snakemake) as logger:
    from brainscm.config import QueryOptions, ScmOptions
    from brainscm.counterfactuals.plan import by_model, by_table, plan_questions, recorded_cost, told
    from brainscm.errors import BrainSCMError
    from brainscm.scans import ScanTable
    from brainscm.scm.model import load_scm
    from brainscm.tables import read_table, write_table
    from brainscm.visits import add_years_since_baseline

    params = snakemake.params
    results, options = Path(params.output_dir), ScmOptions.model_validate(params.scm)
    cohort, qc = add_years_since_baseline(read_table(snakemake.input.scans)), results / "preproc" / "qc.tsv"
    rows = cohort.set_index("scan", drop=False).rename_axis(None)
    support_of = by_table(options, rows)
    try:
        if qc.exists():
            rows = ScanTable.read(snakemake.input.scans, qc).rows
            support_of = by_model(load_scm(results / "scm", options))
            logger.info("By the causal model of %s:", results / "scm")
    except (BrainSCMError, OSError) as error:
        logger.info("By the tables alone, since there is no causal model yet (%s):", error)
    queries = [QueryOptions.model_validate(query) for query in params.queries]
    planned, problems = plan_questions(rows, queries, support_of, params.source)
    for line in told(planned, recorded_cost(results)):
        logger.info("%s", line)
    write_table(planned, results / "counterfactuals" / "plan.tsv")
    if problems:
        raise BrainSCMError(" ".join(problems))

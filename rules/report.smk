"""The HTML report: self-contained pages that open offline."""


rule render_report:
    input:
        scans=f"{RESULTS}/cohort/scans.tsv",
        excluded=f"{RESULTS}/cohort/excluded.tsv",
        qc=f"{RESULTS}/preproc/qc.tsv",
        model=rules.train_autoencoder.output.model,
        card=rules.train_autoencoder.output.card,
        history=rules.train_autoencoder.output.history,
        reconstruction=rules.train_autoencoder.output.reconstruction,
        latents=rules.encode_scans.output.latents,
        nodes=rules.fit_scm.output.nodes,
        tests=rules.fit_scm.output.tests,
        diagnostics=rules.fit_scm.output.diagnostics,
        regional_effects=rules.fit_scm.output.regional_effects,
        manifest=rules.synthesize_counterfactuals.output.manifest,
        summary=rules.evaluate_counterfactuals.output.summary,
        metrics=rules.evaluate_counterfactuals.output.metrics,
        regional_slopes=rules.evaluate_counterfactuals.output.regional_slopes,
        minimality=rules.evaluate_counterfactuals.output.minimality,
        realism=rules.evaluate_counterfactuals.output.realism,
    output:
        index=report(f"{RESULTS}/report/index.html", category="Report", caption="../report/captions/report.rst"),
    log:
        f"{RESULTS}/logs/render_report.log",
    benchmark:
        f"{RESULTS}/benchmarks/render_report.tsv"
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        output_dir=subpath(output.index, ancestor=2),
        config=config,
        code=lambda wildcards: code_fingerprint("render_report"),
    message:
        "Writing the report"
    script:
        "../scripts/render_report.py"


# Named after the stage, like the other targets; `report()` the function stays Snakemake's own.
rule report:
    input:
        rules.render_report.output,

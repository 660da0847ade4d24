"""The HTML report: self-contained pages that open offline."""

from brainscm.report.inputs import report_inputs


rule render_report:
    input:
        **report_inputs(RESULTS, BUNDLE),
        refutation=get_refutation,
    output:
        # A folder, so that `snakemake --report report.zip` takes all pages, which link to one another.
        pages=report(
            directory(f"{RESULTS}/report"),
            htmlindex="index.html",
            category="Report",
            caption="../report/captions/report.rst",
        ),
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
        output_dir=subpath(output.pages, parent=True),
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

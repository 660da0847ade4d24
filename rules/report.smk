"""The HTML report: self-contained pages that open offline."""

from brainscm.report.inputs import INPUTS


rule render_report:
    input:
        **{name: f"{RESULTS}/{path}" for name, path in INPUTS.items()},
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

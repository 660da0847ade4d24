"""The HTML report: self-contained pages that open offline."""

from brainscm.report.inputs import OF_EACH_SCAN, OF_NEW_SCANS, report_inputs

REPORTED = report_inputs(RESULTS, BUNDLE)
# Read, but what they say of the scans of other shards changes nothing on a scan's page.
OF_OTHER_SCANS = {*OF_EACH_SCAN, *(OF_NEW_SCANS if BUNDLE else [])}


rule render_scans:
    input:
        **{name: ancient(path) if name in OF_OTHER_SCANS else path for name, path in REPORTED.items()},
        statuses=get_statuses_of_shard,
        own_answers=get_own_answers,
    output:
        pages=directory(f"{RESULTS}/scan_pages/{{shard}}-of-{{shards}}"),
    log:
        f"{RESULTS}/logs/render_scans/{{shard}}-of-{{shards}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/render_scans/{{shard}}-of-{{shards}}.tsv"
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        output_dir=subpath(output.pages, ancestor=2),
        config=config,
        index=lambda wildcards: told_of_shard(get_shard(wildcards)),
        code=lambda wildcards: code_fingerprint("render_scans"),
    message:
        "Writing the scan pages of shard {wildcards.shard} of {wildcards.shards}"
    script:
        "../scripts/render_scans.py"


rule render_report:
    input:
        **REPORTED,
        refutation=get_refutation,
        scans_of_shards=get_page_shards,
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

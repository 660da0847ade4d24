"""The scans to analyse: found in a BIDS folder, converted from DICOM, or simulated while neither is given."""


rule simulate_cohort:
    input:
        label_maps=[str(path) for path in LABEL_MAPS],
    output:
        description=f"{WORK}/simulation/bids/dataset_description.json",
    log:
        f"{RESULTS}/logs/simulate_cohort.log",
    benchmark:
        f"{RESULTS}/benchmarks/simulate_cohort.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: 6000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        bids_dir=subpath(output.description, parent=True),
        options=config["simulation"],
        seed=config["seed"],
        code=lambda wildcards: code_fingerprint("simulate_cohort"),
    message:
        "Simulating a cohort of raw heads"
    script:
        "../scripts/simulate_cohort.py"


rule convert_dicom:
    input:
        get_dicom_tables,
    output:
        description=f"{WORK}/dicom/bids/dataset_description.json",
    log:
        f"{RESULTS}/logs/convert_dicom.log",
    benchmark:
        f"{RESULTS}/benchmarks/convert_dicom.tsv"
    conda:
        "../envs/stats.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        bids_dir=subpath(output.description, parent=True),
        dicom_dir=config["dicom_dir"],
        content=lambda wildcards: dicom_content(),
        code=lambda wildcards: code_fingerprint("convert_dicom"),
    message:
        "Converting {params.dicom_dir} to BIDS"
    script:
        "../scripts/convert_dicom.py"


checkpoint index_cohort:
    input:
        get_index_tables,
    output:
        scans=f"{RESULTS}/cohort/scans.tsv",
        excluded=f"{RESULTS}/cohort/excluded.tsv",
        notes=f"{RESULTS}/cohort/notes.tsv",
    log:
        f"{RESULTS}/logs/index_cohort.log",
    benchmark:
        f"{RESULTS}/benchmarks/index_cohort.tsv"
    conda:
        "../envs/stats.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        bids_dir=BIDS,
        # Whatever the index reads, so that a mended table or another scan is seen; as a parameter, since 20,000 inputs
        # of one job would be looked at by every job.
        content=lambda wildcards: bids_content(),
        options=config["cohort"],
        seed=config["seed"],
        bundle=BUNDLE,
        new_levels=config["new_levels"],
        code=lambda wildcards: code_fingerprint("index_cohort"),
    message:
        "Indexing the scans of {params.bids_dir}"
    script:
        "../scripts/index_cohort.py"

"""Raw T1w scans to brains in template space, one job a scan; a scan that fails says so and the others go on."""


rule preprocess_scan:
    input:
        runs=get_existing_t1w,
        derived=get_derived if config["derivatives"] else [],
    output:
        # The only declared output: a failed scan has a status, but no image to promise.
        status=f"{RESULTS}/preproc/status/{{scan}}.json",
    log:
        f"{RESULTS}/logs/preprocess_scan/{{scan}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/preprocess_scan/{{scan}}.tsv"
    conda:
        "../envs/ants.yaml"
    threads: 1
    resources:
        # 1.1 GB at 2 mm, of the network that finds the brain; 1.9 at 0.7 mm, where the scan itself is as fine; a minute.
        mem_mb=lambda wildcards, attempt: (2000 if config["preprocess"]["voxel_mm"] >= 1 else 3000) * attempt,
        runtime=lambda wildcards, attempt: 15 * attempt,
    params:
        runs=get_raw_t1w,
        # A file that was put in the place of another may be older than what was made of the first.
        sizes=lambda wildcards: [f"{size_of(path)} bytes" for path in get_raw_t1w(wildcards)],
        # Not the side-cars as inputs: what else is mended in them, or in one of the whole cohort, changes nothing here.
        told=get_told,
        preproc_dir=subpath(output.status, ancestor=2),
        work_dir=WORK,
        template=config["template"],
        options=config["preprocess"],
        derivatives=config["derivatives"],
        seed=config["seed"],
        code=lambda wildcards: code_fingerprint("preprocess_scan"),
    message:
        "Preprocessing {wildcards.scan}"
    script:
        "../scripts/preprocess_scan.py"


rule collect_preprocessing:
    input:
        # What it says of a scan beside its id, such as an age, changes nothing here: `ancient`, also further down the line.
        scans=ancient(get_index),
        statuses=get_statuses,
    output:
        qc=report(f"{RESULTS}/preproc/qc.tsv", category="Quality control", caption="../report/captions/quality.rst"),
    log:
        f"{RESULTS}/logs/collect_preprocessing.log",
    benchmark:
        f"{RESULTS}/benchmarks/collect_preprocessing.tsv"
    conda:
        "../envs/ants.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1500 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        preproc_dir=subpath(output.qc, parent=True),
        limits=config["quality"],
        is_aligned=IS_ALIGNED,
        code=lambda wildcards: code_fingerprint("collect_preprocessing"),
    message:
        "Collecting the status of every scan"
    script:
        "../scripts/collect_preprocessing.py"


rule preprocess:
    input:
        rules.collect_preprocessing.output,

"""The autoencoder, trained on the training split only."""


rule train_autoencoder:
    input:
        scans=ancient(get_scans_to_fit),
        qc=f"{RESULTS}/preproc/qc.tsv",
    output:
        model=f"{RESULTS}/autoencoder/model.pt",
        card=f"{RESULTS}/autoencoder/model.json",
        history=f"{RESULTS}/autoencoder/history.tsv",
        codes=f"{RESULTS}/autoencoder/codes.tsv",
        reconstruction=f"{RESULTS}/autoencoder/reconstruction.tsv",
        reconstructions=directory(f"{RESULTS}/autoencoder/reconstructions"),
        progress=report(
            f"{RESULTS}/autoencoder/progress.png", category="Autoencoder", caption="../report/captions/training.rst"
        ),
    log:
        f"{RESULTS}/logs/train_autoencoder.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_autoencoder.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 8
    resources:
        # Several GPUs of one node: --set-resources train_autoencoder:gpu=4. Several nodes: profiles/slurm-gpu-multinode.
        gpu=0 if config["autoencoder"]["device"] == "cpu" else 1,
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 1440,
    params:
        work_dir=WORK,
        # Of the index it takes no more; `ancient` above says that nothing else there makes it train again.
        split=lambda wildcards: split_content(),
        identity=IDENTITY,
        options=config["autoencoder"],
        seed=config["seed"],
        code=lambda wildcards: code_fingerprint("train_autoencoder"),
    message:
        "Training the autoencoder"
    script:
        "../scripts/train_autoencoder.py"


rule train:
    input:
        rules.train_autoencoder.output,

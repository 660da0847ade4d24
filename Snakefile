"""BrainSCM: raw T1w scans in, counterfactual volumes and quality-control reports out."""

import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")

sys.path.insert(0, str(Path(workflow.basedir, "scripts")))


include: "rules/common.smk"
include: "rules/cohort.smk"
include: "rules/preprocess.smk"
include: "rules/alignment.smk"
include: "rules/autoencoder.smk"
include: "rules/latents.smk"
include: "rules/scm.smk"
include: "rules/counterfactuals.smk"
include: "rules/evaluation.smk"
include: "rules/bundle.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        get_results,


localrules:
    all,
    preprocess,
    train,
    latents,
    scm,
    counterfactuals,
    counterfactual_plan,
    evaluation,
    report,
    bundle,
    refute,


onstart:
    start_of_run()


onsuccess:
    print(f"\n{end_of_run(succeeded=True)}", file=sys.stderr)


onerror:
    print(
        f"\nThe run did not come to its end: the messages above name what failed, {RESULTS}/logs tells more, and the same "
        f"command goes on from here.\n{end_of_run(succeeded=False)}",
        file=sys.stderr,
    )

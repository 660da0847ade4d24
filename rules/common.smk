"""The checked configuration, the folders, and the small input functions that rules share."""

import gc
import os
from functools import lru_cache

from snakemake.dag import DAG
from snakemake.exceptions import IncompleteCheckpointException
from snakemake.logging import logger
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from brainscm.bundle import CHECKSUMS, DESCRIPTION, FIXED, INTERVALS, MAKING, REFERENCE
from brainscm.cohort.content import bids_fingerprint, dicom_fingerprint
from brainscm.cohort.selection import ratings_table
from brainscm.workflow.config_loading import check_study_file, load_config
from brainscm.errors import BrainSCMError
from brainscm.identity import Identity
from brainscm.liveness import hold
from brainscm.files import sidecar
from brainscm.preprocess.derived import MASK, T1W, derived_files
from brainscm.preprocess.described import list_json, notes_of_sidecars
from brainscm.provenance import code_fingerprint, options_fingerprint
from brainscm.questions import ANSWERS, evaluated_queries, group_queries, read_queries, source_of
from brainscm.report.inputs import REFUTATION
from brainscm.run_record import write_run_record
from brainscm.shards import WHOLE, Shard
from brainscm.workflow.dealing import Dealing
from brainscm.workflow.many_jobs import remember_what_jobs_share
from brainscm.workflow.rates import Rates
from brainscm.workflow.progress import ProgressLine
from brainscm.workflow.run_summary import run_summary
from brainscm.workflow.study_record import StudyRecord
from brainscm.simulation.anatomies import find_label_maps
from brainscm.tables import read_table, run_paths

# Of the objects of many thousand jobs hardly any is garbage: look for some less often.
gc.set_threshold(100_000, 20, 20)
remember_what_jobs_share()


def group_jobs(dag, group=DAG.update_groups):
    """Snakemake (9.27) groups jobs twice where the index is there already, and the second time adds to the groups that it
    has kept of the first: a job of all scans was sent beside the right ones, and a dry run did not end."""
    if not dag._running:
        dag.group_job_factory.cache.clear()
        dag._ready_jobs = {job for job in dag._ready_jobs if not job.is_group()}
    group(dag)


DAG.update_groups = group_jobs

# A run that was killed must not stay locked; kept open for as long as this process lives.
AT_WORK = hold(Path.cwd(), workflow.is_main_process)


def prepare_dag(*arguments, prepare=workflow._prepare_dag, **options):
    """End the jobs on SLURM of a run that was killed, which may hold its lock, before anything is looked at."""
    global AT_WORK
    if workflow.executor_plugin and not workflow.dryrun:
        try:
            if end_left_jobs(Path.cwd()) and AT_WORK:
                AT_WORK.close()
                AT_WORK = hold(Path.cwd(), is_main=True, patience=60)
        except BrainSCMError as error:
            raise WorkflowError(str(error))
    prepare(*arguments, **options)


if workflow.is_main_process and ExecutorPluginRegistry().is_installed("slurm"):
    from brainscm.workflow.slurm import Executor, end_left_jobs

    ExecutorPluginRegistry().plugins["slurm"].executor = Executor
    workflow._prepare_dag = prepare_dag

try:
    for study_file in workflow.overwrite_configfiles:
        check_study_file(Path(study_file))
    CONFIG = load_config(Path(workflow.basedir), config, is_checked=not workflow.is_main_process)
    QUERIES = read_queries(CONFIG.counterfactuals)
    RATINGS = ratings_table(CONFIG.cohort)
    SIMULATED = not (CONFIG.bids_dir or CONFIG.dicom_dir)
    STUDY = StudyRecord.of(CONFIG)
    if workflow.is_main_process:
        STUDY.check(CONFIG.output_dir)
    LABEL_MAPS = find_label_maps(CONFIG.simulation.anatomies) if SIMULATED and CONFIG.simulation.anatomies else []
except BrainSCMError as error:
    raise WorkflowError(str(error))

# Emptied first, so that the keys stand in one order whatever the study's own: rules compare their parameters.
config.clear()
config.update(CONFIG.model_dump(mode="json"))

RESULTS = config["output_dir"]
WORK = config["work_dir"]
BIDS = config["bids_dir"] or (f"{WORK}/dicom/bids" if config["dicom_dir"] else f"{WORK}/simulation/bids")

# Where the fitted models lie: the study's own results, or a bundle that its scans are put to.
BUNDLE = config["bundle"]
FITTED = BUNDLE or RESULTS
MODEL = f"{FITTED}/autoencoder/model.pt"
CAUSAL_MODEL = {
    "learnt" if BUNDLE else "covariates": f"{FITTED}/scm/{'learnt.json' if BUNDLE else 'covariates.tsv'}",
    "node_models": f"{FITTED}/scm/node_models.npz",
    "image_model": f"{FITTED}/scm/image_model.npz",
}
BUNDLE_FILES = [f"{BUNDLE}/{name}" for name in (DESCRIPTION, CHECKSUMS, REFERENCE)] if BUNDLE else []

IS_ALIGNED = config["autoencoder"]["alignment"] == "deformable"

# What makes two preprocessed scans comparable; a model remembers it and refuses scans made otherwise.
IDENTITY = Identity.of(CONFIG).as_json()

# The queries of each job of synthesize_counterfactuals, by its label.
QUESTIONS = group_queries(QUERIES)


wildcard_constraints:
    question=r"[a-zA-Z0-9]+",
    shard=r"\d+",
    shards=r"\d+",
    folder=r"sub-[a-zA-Z0-9]+(/ses-[a-zA-Z0-9]+)?",
    scan=r"sub-[a-zA-Z0-9]+(_ses-[a-zA-Z0-9]+)?",


def start_of_run():
    """Say in the results whose they are, and from now on how far the run is; let Snakemake look for jobs to start when one
    has ended, and at no other time.

    To keep to its default rate, 100 starts a second, Snakemake (9.27) wakes once a second for each job that has finished,
    until nothing is left to start: a third of a core after 150 scans. A rate that is asked for is kept to.
    """
    STUDY.remember(Path(RESULTS))
    logger.addHandler(ProgressLine(workflow.dag, Path(RESULTS)))
    # The report, which is made before the run has ended, tells the command. Jobs deal by the same rates as this run.
    record_run(succeeded=False, rates=Rates.read(Path(RESULTS)))
    limiter = workflow.scheduler.job_rate_limiter
    if limiter and (limiter.max_jobs, limiter.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


def end_of_run(succeeded):
    """Write the run record, where there are results to speak of, and return the run summary."""
    if os.access(RESULTS, os.W_OK):
        try:
            rates = dealing().rates_after(Path(RESULTS))
        except (IncompleteCheckpointException, WorkflowError, BrainSCMError):
            rates = Rates.read(Path(RESULTS))
        record_run(succeeded, rates)
    return run_summary(Path(RESULTS))


def record_run(succeeded, rates):
    write_run_record(Path(RESULTS), sys.argv, Path(workflow.basedir), config["seed"], succeeded, rates.as_json())


def get_bids_tables(wildcards):
    """What the cohort's index is made from: the converter's or simulator's last file, or the user's own tables."""
    if config["dicom_dir"]:
        return [rules.convert_dicom.output.description]
    return existing_tables(BIDS) if config["bids_dir"] else [rules.simulate_cohort.output.description]


@lru_cache
def bids_content():
    """What the user's own BIDS folder holds; the converter and the simulator say by their last file that they ran."""
    return f"tables and names in {BIDS} ({bids_fingerprint(Path(BIDS))})" if config["bids_dir"] else None


@lru_cache
def dicom_content():
    return dicom_fingerprint(Path(config["dicom_dir"]))


def get_index_tables(wildcards):
    """What the index is made from: the cohort's tables, the table of ratings if there is one, and what is known of a
    bundle."""
    return [*get_bids_tables(wildcards), *([RATINGS] if RATINGS else []), *BUNDLE_FILES]


def get_scans_to_fit(wildcards):
    """The cohort's table, for what is fitted on it; a study with a bundle fits nothing."""
    if BUNDLE:
        raise WorkflowError(
            f"config: bundle: this study puts its scans to the fitted study in {BUNDLE}, so that nothing is trained, "
            "fitted, evaluated or bundled again; ask for counterfactuals or the report, or take the option out."
        )
    return get_index(wildcards)


def get_index(wildcards):
    """The cohort's table. A rule that takes it as `ancient` is asked about again when the index has been made anew."""
    return checkpoints.index_cohort.get().output.scans


def get_results(wildcards):
    """What a run without a target makes."""
    archive = rules.archive_codes.output if config["archive_codes"] else []
    maps = [] if BUNDLE or not config["scm"]["contrasts"] else rules.map_contrasts.output
    return [rules.render_report.output.pages, *archive, *maps]


def get_refutation(wildcards):
    """What refuters made of the effects, once it was asked for: then the report shows it, and it is kept up to date."""
    asked = f"{RESULTS}/{REFUTATION}"
    return [asked] if not BUNDLE and Path(asked).exists() else []


def get_bundle(wildcards):
    """What a bundle says of itself; a study without one has no other study to be put beside."""
    if not BUNDLE:
        raise WorkflowError("config: bundle: names no fitted study to put the scans beside; name one.")
    return BUNDLE_FILES[0]


def get_true_answers(wildcards):
    """The true counterfactual heads, where the cohort is simulated; a user's own folder holds its answers itself."""
    return [] if config["bids_dir"] or config["dicom_dir"] else rules.simulate_truth.output.answers


def get_dicom_tables(wildcards):
    return existing_tables(config["dicom_dir"])


def existing_tables(folder):
    return [table for name in ("participants.tsv", "sessions.tsv") if (table := Path(folder, name)).exists()]


@lru_cache
def indexed_scans():
    """The cohort's table, read once; while the index has to be made first, `get` raises, and nothing is remembered."""
    try:
        return read_table(checkpoints.index_cohort.get().output.scans)
    except BrainSCMError as error:
        raise WorkflowError(str(error))


@lru_cache
def raw_scans():
    """Map each scan of the indexed cohort to its raw T1w file, or files if it has several runs."""
    return {row.scan: run_paths(row.path, row.further_runs) for row in indexed_scans().itertuples()}


@lru_cache
def split_content():
    """Which scans there are, and their split: all that a training takes from the index. Snakemake shows what changed."""
    scans = indexed_scans()[["scan", "split"]]
    counts = scans["split"].value_counts().sort_index()
    told = ", ".join(f"{count} {split}" for split, count in counts.items())
    return f"{told} scans ({options_fingerprint(scans.values.tolist())})"


def get_raw_t1w(wildcards):
    scans = raw_scans()
    if wildcards.scan not in scans:
        raise WorkflowError(
            f"{wildcards.scan} is not a scan of {RESULTS}/cohort/scans.tsv (left out? see excluded.tsv)."
        )
    return scans[wildcards.scan]


@lru_cache
def size_of(path):
    """The size of a file in bytes; None where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def get_existing_t1w(wildcards):
    """The raw T1w while it exists; a scan that has vanished fails by itself instead of stopping the run."""
    return [path for path in get_raw_t1w(wildcards) if size_of(path) is not None]


@lru_cache
def json_names(folder):
    """The JSON files of a folder: of the whole cohort's it is asked for every scan."""
    return list_json(folder)


@lru_cache
def told_by_sidecars(path):
    return notes_of_sidecars(Path(path), json_names)


def get_told(wildcards):
    """What side-cars tell of the images that a scan is made from."""
    derived = derived_files(Path(config["derivatives"]), wildcards.scan)[T1W] if config["derivatives"] else []
    return [note for path in [*get_raw_t1w(wildcards), *derived] for note in told_by_sidecars(path)]


def get_derived(wildcards):
    """The T1w and mask that another program made of a scan, and what tells whose the mask is; a scan that lacks them,
    or their content, fails by itself."""
    found = derived_files(Path(config["derivatives"]), wildcards.scan)
    told = [sidecar(mask) for mask in found[MASK]]
    return [path for paths in (*found.values(), told) for path in paths if path.exists()]


def get_queries(wildcards):
    """The queries of one question, by its label in file names."""
    if wildcards.question not in QUESTIONS:
        raise WorkflowError(f"{wildcards.question} is not a question of this study: {', '.join(QUESTIONS) or 'none'}.")
    return QUESTIONS[wildcards.question]


def as_parameters(queries):
    """Queries as plain values."""
    return [query.model_dump(mode="json") for query in queries]


def statuses_of(list_scans):
    """What scans' own jobs told: of their preprocessing and, where scans are aligned, of their alignment.

    While the index has to be made first, it is not known which scans there are. A change of the index alone, such as
    another age, is then no reason to ask again.
    """
    try:
        scans = list_scans()
    except IncompleteCheckpointException as exception:
        return ancient(exception.targetfile)
    stages = ["status", "alignment"] if IS_ALIGNED else ["status"]
    return [f"{RESULTS}/preproc/{stage}/{scan}.json" for stage in stages for scan in scans]


def get_statuses(wildcards):
    return statuses_of(raw_scans)


@lru_cache
def dealing():
    return Dealing(
        config=CONFIG,
        scans=indexed_scans(),
        questions=QUESTIONS,
        evaluated=evaluated_queries(QUERIES),
        has_answers=SIMULATED or Path(BIDS, ANSWERS).exists(),
        rates=Rates.read(Path(RESULTS)),
    )


def get_shards(of_stage):
    """The shards of a stage; one while the index, which tells how many there will be, has to be made first."""
    try:
        return of_stage(dealing())
    except IncompleteCheckpointException:
        return [WHOLE]


def get_shard(wildcards):
    return Shard(int(wildcards.shard), int(wildcards.shards))


@lru_cache
def rows_of_shard(shard):
    return dealing().rows_of(shard)


@lru_cache
def told_of_shard(shard):
    """What the index tells of the scans of a shard."""
    rows = rows_of_shard(shard)
    return f"{len(rows)} scans ({options_fingerprint(rows.astype(str).values.tolist())})"


def get_statuses_of_shard(wildcards):
    return statuses_of(lambda: rows_of_shard(get_shard(wildcards))["scan"])


def get_encoded_shards(wildcards):
    """The latents of all shards."""
    return [f"{RESULTS}/latents/shards/{shard}.zarr" for shard in get_shards(Dealing.of_encoding)]


def get_own_latents(wildcards):
    """The latents that a shard of a later stage reads."""
    own = get_shard(wildcards)
    return [f"{RESULTS}/latents/shards/{shard}.zarr" for shard in get_shards(Dealing.of_encoding) if shard.meets(own)]


def get_answered_shards(question):
    """The shards of a question, by its label."""
    return get_shards(lambda dealt: dealt.of_question(question))


def manifest_parts(questions, chosen=lambda shard: True):
    """Parts of the manifest: what the jobs of these questions write."""
    folder = f"{RESULTS}/counterfactuals/questions"
    shards = [(question, shard) for question in questions for shard in get_answered_shards(question)]
    return [f"{folder}/{question}/{shard}.tsv" for question, shard in shards if chosen(shard)]


def get_manifest_parts(wildcards):
    return manifest_parts(QUESTIONS)


def get_own_answers(wildcards):
    """The parts of the manifest that a shard of the evaluation or of the report reads."""
    return manifest_parts(QUESTIONS, get_shard(wildcards).meets)


def get_scored_shards(wildcards):
    """The scores of all shards of test scans."""
    return [f"{RESULTS}/evaluation/shards/{shard}" for shard in get_shards(Dealing.of_evaluation)]


def get_page_shards(wildcards):
    """The scan pages of all shards; not one shard while there is no index, since what asks for the report would then be
    told, each time anew, that pages are made."""
    return [f"{RESULTS}/scan_pages/{shard}" for shard in dealing().of_pages()]

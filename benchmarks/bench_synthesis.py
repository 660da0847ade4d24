"""How many counterfactuals a core makes a minute, and whether draws that are moved on tell what decoded ones do.

python benchmarks/bench_synthesis.py [--before <worktree of the code before>/scripts] [--voxel-mm 3 2] [--work folder]

A simulated cohort, encoded by a VQ-VAE (see placed_cohort.py), is asked what its scans would look like some years on.
Core-seconds a volume, files, uncertainty and regional volumes included, where a scan is asked one question and where it
is asked four, and without uncertainty (the volume alone); beside

- the bare operations that a counterfactual consists of: one decoding, one inversion, one cubic warp; and, not among
  them, one moving of borders;
- the code before, of which --before names the scripts/, on the same scans and weights in the same run;
- a naive loop, which makes each draw as if it were the only one, with nothing shared.

`once_a_job`: what a job pays once for all of its scans. `--checked`: of how many scans, at the first voxel size, the
map of uncertainty of moved draws is compared with that of 64 decoded ones. `--questions`: the largest memory of a job
that asks one scan so many. Each is a process of its own, on one core, and its processor time. Writes
benchmarks/results/synthesis.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"
if "--only" not in sys.argv or "before" not in sys.argv:
    sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import numpy as np
import torch
import zarr
from placed_cohort import encode_cohort, fit_cohort, make_cohort
from record import RESULTS, circumstances, write

import brainscm.scm.image
import brainscm.scm.model
from brainscm.alignment.displacement import inverse, resample, voxels
from brainscm.config import AutoencoderOptions, QueryOptions
from brainscm.counterfactuals.intervals import IntervalFactors
from brainscm.counterfactuals.prediction import predict
from brainscm.counterfactuals.queries import plan_query
from brainscm.counterfactuals.synthesis import _Synthesis, read_factual, synthesize
from brainscm.encoding.density import move_borders
from brainscm.encoding.model import encoder_identity
from brainscm.latents.encoded import EncodedScans
from brainscm.preprocess.template import EMBEDDED, Template, load_template
from brainscm.preprocess.tissues import MeasureTissues
from brainscm.scm.model import Scm

PARTICIPANTS = 15
SCANS = 3  # of a job; the first pays what all share
QUESTIONS = {"one_question": 1, "four_questions": 4}
MANY_DRAWS = 64
OPTIONS = AutoencoderOptions(max_steps=12, validation_interval=12)
OLDER = {"name": "older", "do": {"age": "+20"}}
HERE = Path(__file__).parents[1] / "scripts"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxel-mm", type=float, nargs="+", default=[3.0, 2.0])
    parser.add_argument("--before", type=Path, help="scripts/ of the code before")
    parser.add_argument("--work", type=Path, help="where the cohorts are kept")
    parser.add_argument("--participants", type=int, default=PARTICIPANTS)
    parser.add_argument("--checked", type=int, default=4, help="scans whose maps are compared; 0 for none")
    parser.add_argument(
        "--questions", type=int, nargs="*", default=[2, 20, 100], help="of jobs whose memory is looked at"
    )
    parser.add_argument("--only", choices=[*PARTS], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = arguments.work or Path(tempfile.mkdtemp())
    if arguments.only:
        print(json.dumps(PARTS[arguments.only](work, arguments.voxel_mm[0], arguments)))
        return

    def alone(part: str, voxel_mm: float, *more: str, scripts: Path = HERE) -> Any:
        command = [sys.executable, __file__, "--only", part, "--work", str(work), "--voxel-mm", str(voxel_mm)]
        command += ["--checked", str(arguments.checked), "--participants", str(arguments.participants), *more]
        environment = os.environ | {"PYTHONPATH": str(scripts)}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        return json.loads(done.stdout.splitlines()[-1])

    figures: dict[str, Any] = {"voxel_mm": {}}
    for voxel_mm in arguments.voxel_mm:
        alone("prepare", voxel_mm)
        found = alone("now", voxel_mm)
        seconds = found["core_seconds_a_volume"]
        bare = found["bare_operations_core_seconds"]["all"]
        found["volumes_a_core_minute"] = {key: 60 / value for key, value in seconds.items()}
        found["share_of_bare_operations"] = {key: bare / value for key, value in seconds.items()}
        if arguments.before:
            found["before_core_seconds_a_volume"] = before = alone("before", voxel_mm, scripts=arguments.before)
            found["times_faster_than_before"] = {key: before[key] / seconds[key] for key in before}
        figures["voxel_mm"][f"{voxel_mm:g}"] = found
        print(json.dumps(found, indent=2), flush=True)
    largest = figures["voxel_mm"][f"{arguments.voxel_mm[-1]:g}"]
    hours = largest["core_seconds_a_volume"]["four_questions"] * arguments.voxel_mm[-1] ** 3 * 1000 / 3600
    figures["extrapolated_core_hours_a_thousand_volumes_at_1_mm"] = hours
    figures["peak_memory_mb_by_questions_of_a_scan"] = {
        str(count): alone("memory", arguments.voxel_mm[0], "--questions", str(count)) for count in arguments.questions
    }
    if arguments.checked:
        figures["maps"] = alone("maps", arguments.voxel_mm[0])
    figures |= circumstances(platform.system(), f"{os.cpu_count()} cores, one of them used, others at work beside it")
    print(write(figures, RESULTS / "synthesis.json"))


def prepare(work: Path, voxel_mm: float, asked: argparse.Namespace) -> None:
    template = _template(work, voxel_mm)
    make_cohort(_folder(work, voxel_mm), asked.participants, template)
    encode_cohort(_folder(work, voxel_mm), template, OPTIONS)


def rates(work: Path, voxel_mm: float, asked: argparse.Namespace) -> dict[str, Any]:
    folder, template = _folder(work, voxel_mm), _template(work, voxel_mm)
    encoded = encode_cohort(folder, template, OPTIONS)
    scm, measure = fit_cohort(encoded), MeasureTissues(template)
    each, once = _a_volume(scm, encoded, measure)
    scan = encoded.scans.usable["scan"].iloc[0]
    factual = read_factual(encoded, scan, measure).factual
    plan = plan_query(scm, encoded.scans.usable, QueryOptions.model_validate(OLDER))
    step = plan.step[:1]
    encoder: Any = encoded.encoder
    with torch.inference_mode():
        _ = factual.appearance
        found = predict(factual, scm.image, step, "residual")
        volume, displacement = found.volume[0, 0], encoder._displacement(encoder._where(factual.latents)[0])
        points = voxels(volume.shape, volume.device) + 0.3 * displacement
        density = encoder._density(found.shift)[0]
        bare = {
            "decoding": _seconds(lambda: encoder.appearance(factual.latents)),
            "inversion": _seconds(lambda: inverse(displacement)),
            "cubic_warp": _seconds(lambda: resample(volume, points)),
        }
        borders = factual.volumes[0, 0], factual.volumes[0, 0], factual.levels[0], density, voxel_mm
        moving = _seconds(lambda: move_borders(*borders))
        alone = _seconds(lambda: predict(factual, scm.image, step, "residual"))

    def naive() -> None:
        for k in (None, *range(scm.draws)):
            fresh = read_factual(encoded, scan, measure)
            made = predict(fresh.factual, scm.image, step, "residual", draw=k).volume[0, 0].numpy()
            fresh.measure.volumes_ml(made)

    return {
        "grid": list(template.shape),
        "core_seconds_a_volume": {**each, "without_uncertainty": alone},
        "once_a_job_core_seconds": once,
        "bare_operations_core_seconds": {**bare, "all": sum(bare.values())},
        "moving_borders_core_seconds": moving,
        "naive_loop_core_seconds_a_volume": _seconds(naive, times=1),
    }


def rates_before(work: Path, voxel_mm: float, asked: argparse.Namespace) -> dict[str, float]:
    """By the code before, which reads the same weights without what it does not know."""
    folder, template = _folder(work, voxel_mm), _template(work, voxel_mm)
    content = torch.load(folder / "model.pt", weights_only=True)
    content["identity"].pop("template_sha256", None)
    model, latents = folder / "before.pt", folder / "before.zarr"
    torch.save(content, model)
    shutil.copytree(folder / "latents.zarr", latents, dirs_exist_ok=True)
    zarr.open_group(latents).attrs["identity"] = encoder_identity(model).as_json()
    encoded = EncodedScans.open(folder / "cohort" / "scans.tsv", folder / "preproc" / "qc.tsv", latents, model)
    return _a_volume(fit_cohort(encoded), encoded, MeasureTissues(template))[0]


def _a_volume(scm: Scm, encoded: EncodedScans, measure: MeasureTissues) -> tuple[dict[str, float], float]:
    """Core-seconds of a volume by how much is asked of its scan, and what a job of one question takes once."""
    found, once = {}, []
    for name, count in QUESTIONS.items():
        start, scans = time.process_time(), _answer(scm, encoded, measure, count, SCANS)
        found[name] = float(np.median(scans[1:])) / count
        once.append(time.process_time() - start - SCANS * count * found[name])
    return found, once[0]


def _answer(scm: Scm, encoded: EncodedScans, measure: MeasureTissues, questions: int, scans: int) -> list[float]:
    """Core-seconds of each scan of a job."""
    took, answer = [], _Synthesis.answer

    def timed(*given: Any, **how: Any) -> Any:
        start = time.thread_time()
        rows = answer(*given, **how)
        took.append(time.thread_time() - start)
        return rows

    asked = list(encoded.scans.usable["scan"])[:scans]
    queries = [
        QueryOptions.model_validate({"name": f"older{k}", "do": {"age": f"+{10 + k}"}, "scans": asked})
        for k in range(questions)
    ]
    with tempfile.TemporaryDirectory() as out_dir, mock.patch.object(_Synthesis, "answer", timed):
        synthesize(scm, encoded, queries, measure, IntervalFactors({}, {}), Path(out_dir))
    return took


def peak_memory_mb(work: Path, voxel_mm: float, asked: argparse.Namespace) -> float:
    """Of a job that asks one scan some questions."""
    folder, template = _folder(work, voxel_mm), _template(work, voxel_mm)
    encoded = encode_cohort(folder, template, OPTIONS)
    _answer(fit_cohort(encoded), encoded, MeasureTissues(template), asked.questions[0], 1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare_maps(work: Path, voxel_mm: float, asked: argparse.Namespace) -> dict[str, Any]:
    """Maps of uncertainty in the brain: correlation, and ratio of means, median and worst over scans."""
    from brainscm.counterfactuals.prediction import Draws

    brainscm.scm.image.DRAWS = brainscm.scm.model.DRAWS = MANY_DRAWS
    template = _template(work, voxel_mm)
    encoded = encode_cohort(_folder(work, voxel_mm), template, OPTIONS)
    scm, measure = fit_cohort(encoded), MeasureTissues(template)
    every = max(1, len(encoded.scans.usable) // asked.checked)
    rows = encoded.scans.usable.iloc[::every].iloc[: asked.checked]
    plan = plan_query(scm, rows, QueryOptions.model_validate(OLDER))
    draws = Draws(encoded.encoder, scm.image)
    found: dict[str, list[tuple[float, float]]] = {}
    spreads: dict[str, list[float]] = {}
    for at, scan in enumerate(rows["scan"]):
        read, one = read_factual(encoded, scan, measure), slice(at, at + 1)
        made = predict(read.factual, scm.image, plan.step[one], "residual")
        squares, volumes = {}, {}
        for decoded in (False, True):
            given = read.factual, made, plan.step[one], plan.drawn_steps[:, one], "residual", decoded
            off = [(volume - made.volume)[0, 0].numpy() for volume in draws.volumes(*given)]
            squares[decoded] = np.array([each[read.mask] ** 2 for each in off])
            volume = made.volume[0, 0].numpy()
            before = read.measure.volumes_ml(volume)
            moved = [read.measure.volumes_ml(volume + each) for each in off]
            volumes[decoded] = {key: np.sqrt(np.mean([(m[key] - before[key]) ** 2 for m in moved])) for key in before}
        maps = {
            f"{draws_}_{'decoded' if decoded else 'moved'}": np.sqrt(squares[decoded][:draws_].mean(axis=0))
            for decoded in (False, True)
            for draws_ in (8, MANY_DRAWS)
        }
        pairs = {
            "64_moved_and_64_decoded": ("64_moved", "64_decoded"),
            "8_moved_and_8_decoded": ("8_moved", "8_decoded"),
            "8_moved_and_64_decoded": ("8_moved", "64_decoded"),
            "8_decoded_and_64_decoded": ("8_decoded", "64_decoded"),
        }
        for name, (left, right) in pairs.items():
            a, b = maps[left], maps[right]
            found.setdefault(name, []).append((float(np.corrcoef(a, b)[0, 1]), float(a.mean() / b.mean())))
        for region in volumes[True]:
            spreads.setdefault(region, []).append(float(volumes[False][region] / volumes[True][region]))
    return {
        "scans": len(rows),
        "training_participants": len(scm.training),
        **{
            name: {
                "correlation": float(np.median([each for each, _ in of])),
                "lowest": min(each for each, _ in of),
                "scale": float(np.median([each for _, each in of])),
            }
            for name, of in found.items()
        },
        "regional_spread_moved_over_decoded": {region: float(np.median(of)) for region, of in spreads.items()},
    }


def _seconds(work: Callable[[], object], times: int = 3) -> float:
    """Processor time, the median of some after one that is not counted."""
    if times > 1:
        work()
    took = []
    for _ in range(times):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return float(np.median(took))


def _folder(work: Path, voxel_mm: float) -> Path:
    return work / f"{voxel_mm:g}mm"


def _template(work: Path, voxel_mm: float) -> Template:
    return load_template(EMBEDDED, voxel_mm, work / "template")


PARTS: dict[str, Callable[[Path, float, argparse.Namespace], Any]] = {
    "prepare": prepare, "now": rates, "before": rates_before, "maps": compare_maps, "memory": peak_memory_mb,
}  # fmt: skip

if __name__ == "__main__":
    main()

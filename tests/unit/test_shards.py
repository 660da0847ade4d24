"""The dealing of a cohort into shards: each scan in one, and none moved by another."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from brainscm.config import Config, QueryOptions
from brainscm.run_record import write_run_record
from brainscm.shards import WHOLE, Shard, deal
from brainscm.workflow.dealing import Dealing
from brainscm.workflow.rates import Rates

SCANS = [f"sub-{i:04d}_ses-{visit}" for i in range(500) for visit in (1, 2)]


def test_each_scan_lies_in_one_shard_of_about_the_same_size() -> None:
    shards = deal(480, 30)
    assert [str(shard) for shard in shards][:2] == ["1-of-16", "2-of-16"]
    sizes = [sum(shard.holds(scan) for scan in SCANS) for shard in shards]
    assert sum(sizes) == len(SCANS)
    assert 40 < min(sizes) <= max(sizes) < 90


def test_work_that_fits_is_one_job() -> None:
    assert deal(30, 30) == [WHOLE]
    assert len(deal(30.1, 30)) == 2


def test_a_shard_meets_those_of_another_dealing_that_hold_its_scans() -> None:
    for mine, theirs in ((4, 16), (16, 4), (8, 8), (1, 4)):
        for shard in (Shard(number, mine) for number in range(1, mine + 1)):
            own = [scan for scan in SCANS if shard.holds(scan)]
            others = (Shard(number, theirs) for number in range(1, theirs + 1))
            assert all(other.meets(shard) == any(other.holds(scan) for scan in own) for other in others)


OLDER = QueryOptions(name="older", do={"age": "+10"})


def dealing(
    *queries: QueryOptions, voxel_mm: float = 2.0, minutes: float = 30, added: int = 0, **other: Any
) -> Dealing:
    """Of 1,000 scans, of which 200 are tested; `queries` are those of one question."""
    config = Config.model_validate({"preprocess": {"voxel_mm": voxel_mm}, "workflow": {"shard_minutes": minutes}})
    scans = [*SCANS, *(f"sub-new{i}" for i in range(added))]
    splits = ["test" if i % 5 == 0 else "train" for i in range(len(scans))]
    table = pd.DataFrame({"scan": scans, "participant": scans, "split": splits})
    known: dict[str, Any] = {"questions": {"asked": queries}, "evaluated": queries, "has_answers": True}
    return Dealing(config, table, **{**known, "rates": Rates(), **other})


def test_finer_voxels_shorter_jobs_and_more_answers_make_more_shards() -> None:
    assert len(dealing().of_encoding()) == 1
    assert len(dealing(voxel_mm=1.0).of_encoding()) == 4
    assert (len(dealing().of_pages()), len(dealing(voxel_mm=1.0).of_pages())) == (1, 2)
    assert len(dealing(OLDER).of_question("asked")) == 1
    assert len(dealing(OLDER, minutes=5).of_question("asked")) == 4
    of_all, measured = (OLDER.model_copy(update={"scans": scans}) for scans in ("all", "mask_dice > 0.9"))
    assert len(dealing(of_all).of_question("asked")) == len(dealing(measured).of_question("asked")) == 4
    assert len(dealing(*[of_all] * 4).of_question("asked")) == 16


def test_the_evaluation_asks_test_scans_alone_and_few_of_them_where_no_answer_is_known() -> None:
    assert len(dealing(*[OLDER] * 4).of_evaluation()) == 2  # 200 scans, 4 questions, 4 s each: 53 minutes
    assert len(dealing(*[OLDER] * 4, has_answers=False).of_evaluation()) == 1


def write_benchmarks(results: Path, rule: str, shards: list[Shard], seconds: float) -> None:
    for shard in shards:
        path = results / "benchmarks" / rule / f"{shard}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\n{seconds}\n")


def test_recorded_times_deal_what_is_not_there_yet_and_leave_the_shards_that_are(tmp_path: Path) -> None:
    first = dealing(voxel_mm=1.0)
    shards = first.of_encoding()
    write_benchmarks(tmp_path, "encode_scans", shards, 9600)  # twice 80 minutes where 20 were thought
    write_benchmarks(tmp_path, "render_scans", first.of_pages(), 30)  # mostly start
    rates = first.rates_after(tmp_path)
    assert rates.recorded == {"encode_scans": pytest.approx(4 * 9600 / 8 / 1000)}
    assert len(dealing(voxel_mm=1.0, rates=rates).of_encoding()) == 32
    (tmp_path / "latents" / "shards" / "1-of-4.zarr").mkdir(parents=True)
    rates = first.rates_after(tmp_path)
    write_run_record(tmp_path, ["snakemake"], tmp_path, 1, succeeded=True, rates=rates.as_json())
    assert Rates.read(tmp_path) == rates
    again = dealing(voxel_mm=1.0, rates=rates)
    assert again.of_encoding() == shards
    assert again.rates_after(tmp_path) == rates
    assert again.of_pages() == first.of_pages()
    assert Rates.read(tmp_path / "nowhere") == Rates()


def test_a_question_is_dealt_by_what_the_answers_to_others_have_taken(tmp_path: Path) -> None:
    of_all = OLDER.model_copy(update={"scans": "all"})
    rates = Rates({"synthesize_counterfactuals": 60}, {"counterfactuals/questions/asked": 6})
    dealt = dealing(of_all, questions={"asked": [of_all], "new": [of_all]}, rates=rates)
    assert (len(dealt.of_question("asked")), len(dealt.of_question("new"))) == (4, 64)


@pytest.mark.parametrize("added", [1, 20])
def test_an_added_scan_changes_its_own_shard_alone(added: int) -> None:
    before, after = dealing(minutes=1), dealing(minutes=1, added=added)
    shards = before.of_encoding()
    assert after.of_encoding() == shards
    changed = [shard for shard in shards if len(after.rows_of(shard)) != len(before.rows_of(shard))]
    assert 1 <= len(changed) <= added

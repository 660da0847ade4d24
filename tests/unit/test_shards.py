"""The dealing of a cohort into shards: each scan in one, and none moved by another."""

import pandas as pd
import pytest

from brainscm.config import Config, QueryOptions
from brainscm.shards import WHOLE, Shard, deal
from brainscm.workflow.dealing import Dealing

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


def dealing(voxel_mm: float = 2.0, minutes: float = 30, added: int = 0) -> Dealing:
    config = Config.model_validate({"preprocess": {"voxel_mm": voxel_mm}, "workflow": {"shard_minutes": minutes}})
    scans = [*SCANS, *(f"sub-new{i}" for i in range(added))]
    splits = ["test" if i % 5 == 0 else "train" for i in range(len(scans))]
    return Dealing(config, pd.DataFrame({"scan": scans, "participant": scans, "split": splits}))


def test_finer_voxels_shorter_jobs_and_more_answers_make_more_shards() -> None:
    of_test = QueryOptions(name="older", do={"age": "+10"})
    assert len(dealing().of_encoding()) == 1
    assert len(dealing(voxel_mm=1.0).of_encoding()) == 4
    assert len(dealing().of_question([of_test])) == 1
    assert len(dealing(minutes=5).of_question([of_test])) == 4
    of_all, measured = (of_test.model_copy(update={"scans": scans}) for scans in ("all", "mask_dice > 0.9"))
    assert len(dealing().of_question([of_all])) == len(dealing().of_question([measured])) == 4
    assert len(dealing().of_question([of_all] * 4)) == 16


@pytest.mark.parametrize("added", [1, 20])
def test_an_added_scan_changes_its_own_shard_alone(added: int) -> None:
    before, after = dealing(minutes=1), dealing(minutes=1, added=added)
    shards = before.of_encoding()
    assert after.of_encoding() == shards
    changed = [shard for shard in shards if len(after.rows_of(shard)) != len(before.rows_of(shard))]
    assert 1 <= len(changed) <= added

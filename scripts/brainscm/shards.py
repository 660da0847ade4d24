"""Shards: the parts into which a stage deals the cohort's scans, so that the jobs of a cluster work side by side.

A scan's id alone tells its shard, so that another scan in the cohort changes nothing for the rest. There are 1, 2, 4,
… of them: a cohort has to double before it is dealt anew, and shards of a finer dealing lie within those of a coarser.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shard:
    """The shard `number`, counted from 1, `of` so many."""

    number: int
    of: int

    @classmethod
    def named(cls, name: str) -> Shard:
        """From `<number>-of-<of>`."""
        number, _, of = name.split("-")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}-of-{self.of}"

    def holds(self, scan: str) -> bool:
        return zlib.crc32(scan.encode()) % self.of == self.number - 1

    def meets(self, other: Shard) -> bool:
        """Whether a scan may lie in both."""
        coarser = min(self.of, other.of)
        return self.number % coarser == other.number % coarser


WHOLE = Shard(1, 1)


def deal(minutes: float, shard_minutes: float) -> list[Shard]:
    """The shards of a stage that takes so many minutes in one job, if each may take `shard_minutes`."""
    count = 1
    while minutes / count > shard_minutes:
        count *= 2
    return [Shard(number, count) for number in range(1, count + 1)]


def remove_other_dealings(shards: Sequence[Path]) -> None:
    """Remove what an earlier dealing has left beside the folders of the present shards, which hold nothing else."""
    for left_over in set(shards[0].parent.iterdir()) - {*shards}:
        shutil.rmtree(left_over, ignore_errors=True)

"""Shards: the parts into which a stage deals the cohort's scans, so that the jobs of a cluster work side by side.

A scan's id alone tells its shard, so that another scan in the cohort changes nothing for the rest. There are 1, 2, 4,
… of them: a cohort has to double before it is dealt anew, and shards of a finer dealing lie within those of a coarser.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """The shard `number`, counted from 1, `of` so many."""

    number: int
    of: int

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

"""Into how many shards each stage deals the indexed cohort, and which scans lie in which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from brainscm.config import Config, QueryOptions
from brainscm.errors import ConfigError
from brainscm.questions import select_scans
from brainscm.shards import Shard, deal

# Minutes of a job of four cores at 2 mm, for a scan or an answer: of the truth benchmark, whose 3 mm were scaled.
ENCODING, ANSWER = 0.01, 0.1


@dataclass(frozen=True)
class Dealing:
    """The dealing of a cohort.

    Attributes:
        scans: its index, a row a scan.
    """

    config: Config
    scans: pd.DataFrame

    def of_encoding(self) -> list[Shard]:
        return self._deal(ENCODING * len(self.scans))

    def of_question(self, queries: Sequence[QueryOptions]) -> list[Shard]:
        """For the queries of one job."""
        return self._deal(ANSWER * sum(self._count(query) for query in queries))

    def rows_of(self, shard: Shard) -> pd.DataFrame:
        """The rows of the index that lie in a shard."""
        return self.scans[[shard.holds(scan) for scan in self.scans["scan"]]]

    def _deal(self, minutes: float) -> list[Shard]:
        finer = (2 / self.config.preprocess.voxel_mm) ** 3
        return deal(minutes * finer, self.config.workflow.shard_minutes)

    def _count(self, query: QueryOptions) -> int:
        """How many scans a query is put to; all, if it asks for what quality control measures later."""
        try:
            return len(select_scans(self.scans, query))
        except ConfigError:
            return len(self.scans)

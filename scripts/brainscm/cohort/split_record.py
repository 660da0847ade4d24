"""Who is in which part of the split, kept beside the index: a mended age or a new participant moves nobody else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter

from brainscm.config import CohortOptions
from brainscm.files import damaged, write_json

FILE = "split.json"


class Draw(BaseModel):
    """The part of each participant, and the options that it was drawn by."""

    drawn_by: dict[str, Any]
    parts: dict[str, Literal["train", "validation", "test"]]


@dataclass(frozen=True)
class SplitRecord:
    """The parts that were drawn by some options. Those drawn by others are kept, too: options may be changed back.

    Attributes:
        path: a file that Snakemake does not know: it removes a job's outputs before the job starts.
        seed: of the split.
    """

    path: Path
    options: CohortOptions
    seed: int

    @property
    def _drawn_by(self) -> dict[str, Any]:
        return {"seed": self.seed, "stratify": self.options.stratify, **self.options.split.model_dump(mode="json")}

    def read(self) -> dict[str, str]:
        """Participant → part; none where nothing was drawn by these options yet.

        Raises:
            BrainSCMError: the file is damaged.
        """
        own = [draw.parts for draw in self._draws() if draw.drawn_by == self._drawn_by]
        return dict(*own)

    def write(self, parts: Mapping[str, str]) -> None:
        """Record the parts; participants who were recorded before and are not among these keep theirs."""
        others = [draw.model_dump() for draw in self._draws() if draw.drawn_by != self._drawn_by]
        write_json(self.path, [*others, {"drawn_by": self._drawn_by, "parts": {**self.read(), **parts}}])

    def _draws(self) -> list[Draw]:
        try:
            return TypeAdapter(list[Draw]).validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise damaged(self.path, error) from error

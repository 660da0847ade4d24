"""What the training scans taught beside numbers of models: kinds, levels and ranges, knots and means, and who is near.

One file of plain values, `learnt.json`, without anybody's own values or ids.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from brainscm.errors import BrainSCMError
from brainscm.files import write_json
from brainscm.scm.covariates import Covariates
from brainscm.scm.neighbours import Neighbours

LEARNT = "learnt.json"


@dataclass(frozen=True)
class Learnt:
    """What `learnt.json` holds.

    Attributes:
        designs: the state of each formula's design (`Design.state`), "image" and "node <name>".
    """

    covariates: Covariates
    neighbours: Neighbours
    designs: dict[str, Any]

    def write(self, folder: Path) -> None:
        content = {
            "covariates": asdict(self.covariates),
            "neighbours": self.neighbours.as_json(),
            "designs": self.designs,
        }
        write_json(folder / LEARNT, content)

    @classmethod
    def read(cls, folder: Path) -> Learnt:
        """Read what `write` wrote.

        Raises:
            BrainSCMError: it is of another version.
        """
        try:
            content = json.loads((folder / LEARNT).read_text(encoding="utf-8"))
            covariates = _covariates(content["covariates"])
            return cls(covariates, Neighbours.of_json(content["neighbours"]), dict(content["designs"]))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise BrainSCMError(
                f"{folder / LEARNT}: is of another version of BrainSCM ({type(error).__name__}); make the bundle again."
            ) from error


def _covariates(stored: dict[str, Any]) -> Covariates:
    return Covariates(
        columns=dict(stored["columns"]),
        levels={name: None if names is None else tuple(names) for name, names in stored["levels"].items()},
        ranges={name: (float(low), float(high)) for name, (low, high) in stored["ranges"].items()},
        units=dict(stored["units"]),
    )

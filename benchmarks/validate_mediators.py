"""Fit a graph with mediators to a table of regional volumes: age and sex → head size, ventricles → the other regions.

python benchmarks/validate_mediators.py --bids <ixi-2mm> --name ixi

Needs `participants.tsv` (age, sex) and DLMUSE's `derivatives/dlmuse/volumes.tsv` (mm³, columns like 601_GM). The image
node is the vector of all regional volumes but the ventricles', so that no image has to be read. Every fifth participant
is held out. Writes benchmarks/results/mediators_<name>.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from record import RESULTS, circumstances, write

from brainscm.config import ScmOptions
from brainscm.scm.diagnostics import diagnose, held_out
from brainscm.scm.inference import contrast_tests
from brainscm.scm.model import Scm
from brainscm.scm.regional_effects import measured_effects
from brainscm.tables import read_table

REPORTED = ["gm", "wm", "corticalcsf", "frontal", "temporal", "parietal", "cerebellum"]
GRAPH = ScmOptions.model_validate(
    {
        "nodes": {
            "sex": {"levels": ["F", "M"]},
            "age": {"unit": "years"},
            "icv": {"unit": "ml", "formula": "sex"},
            "ventricles": {"unit": "ml", "formula": "age + sex + icv", "family": "gamma"},
        },
        "image": {"formula": "age + sex + icv + ventricles"},
        "contrasts": {"ageing": {"age": [30, 75]}, "sexes": {"sex": ["F", "M"]}},
        "permutations": 1000,
    }
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bids", type=Path, required=True)
    parser.add_argument("--name", required=True)
    arguments = parser.parse_args()

    table, regions = read(arguments.bids)
    volumes = table[[f"{region}_ml" for region in regions]].to_numpy(dtype=np.float64)
    scm = Scm.fit(table, volumes, GRAPH, seed=1)
    rows = [int(row) for row in np.flatnonzero(table["scan"].isin(scm.training["scan"]))]
    effects = measured_effects(scm, table, [*REPORTED, "icv", "ventricles"])
    offered = int((table["split"] == "train").sum())
    figures = {
        "participants": len(table),
        "training": len(scm.training),
        "regions": len(regions),
        "nodes": records(pd.concat([node.table(scm.training_values) for node in scm.nodes.values()])),
        "tests": records(contrast_tests(scm, scm.sample(volumes, rows))),
        "regional_effects": records(effects),
        "diagnostics": records(pd.concat([diagnose(scm, offered), held_out(scm, table, volumes)])),
        **circumstances(
            platform.system(),
            command=f"python benchmarks/validate_mediators.py --bids <{arguments.bids.name}> --name {arguments.name}",
        ),
    }
    print(effects.drop(columns=["source", "scans"]).to_string(index=False, float_format="%.3g"))
    write(figures, RESULTS / f"mediators_{arguments.name}.json")


def read(bids: Path) -> tuple[pd.DataFrame, list[str]]:
    """A table as the SCM takes it, volumes in ml under `<region>_ml`, and the image node's regions."""
    participants = read_table(bids / "participants.tsv")
    measured = read_table(bids / "derivatives" / "dlmuse" / "volumes.tsv")
    named = {column: column.split("_", 1)[1].lower() for column in map(str, measured) if column[0].isdigit()}
    table = participants.merge(measured, on="participant_id").rename(columns={"participant_id": "participant"})
    ml = pd.DataFrame({f"{name}_ml": table[column] / 1000 for column, name in named.items()})
    table = pd.concat([table[["participant", "age", "sex"]], ml], axis=1)
    table.insert(0, "scan", table["participant"])
    table["split"] = np.where(np.arange(len(table)) % 5 == 0, "validation", "train")
    left_out = ("ventricle", "icv")
    return table, [name for name in named.values() if not any(word in name for word in left_out)]


def records(table: pd.DataFrame) -> list[dict[str, object]]:
    return json.loads(table.to_json(orient="records", double_precision=6))


if __name__ == "__main__":
    main()

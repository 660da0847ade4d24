"""Ask about nodes whose numbers may be codes: four sites are no amount, and a slope over them means nothing."""

from __future__ import annotations

import pandas as pd

from brainscm.cohort.values import is_age
from brainscm.config import ScmOptions
from brainscm.errors import ConfigError
from brainscm.scm.graph import read_graph

CODES = (3, 10)  # as few different whole numbers as levels have; two are the same either way
SCANS_A_CODE = 3  # on average, at least


def check_codes(options: ScmOptions, scans: pd.DataFrame) -> None:
    """Check that no node holds a few whole numbers of which nothing says whether they are amounts or levels.

    Its levels, its unit, its family or a `C()` in a formula say so, and so does `Levels` in participants.json.

    Raises:
        ConfigError: one does; the message says how to answer.
    """
    in_c = read_graph(options).in_c
    for name, node in options.nodes.items():
        column = node.column or name
        if node.levels or node.unit or node.family or name in in_c or column not in scans or is_age(column):
            continue
        values = scans[column].dropna()
        if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values) or (values % 1 != 0).any():
            continue
        codes = sorted(values.unique())
        if CODES[0] <= len(codes) <= CODES[1] and len(values) >= SCANS_A_CODE * len(codes):
            listed = ", ".join(f"{code:.0f}" for code in codes)
            quoted = ", ".join(f'"{code:.0f}"' for code in codes)
            raise ConfigError(
                f"config: scm.nodes.{name}: '{column}' holds only {listed}; if these are codes, write "
                f"{{levels: [{quoted}]}}, if amounts, give their unit, as {{unit: points}}."
            )

"""What preprocessing measures of a scan, and a node of the graph may therefore be named after."""

from __future__ import annotations

import re

from brainscm.cohort.tables import read_table
from brainscm.config import AtlasOptions
from brainscm.errors import ConfigError

# With any template; a node may be named so with or without its unit.
MEASURED = frozenset({"gm", "wm", "csf", "ventricles", "brain", "medial_temporal_gm", "head_size"})


def region_names(options: AtlasOptions) -> dict[int, str]:
    """The atlas's labels with their names as table columns have them: lower case, `_` for all but letters and digits.

    Raises:
        ConfigError: the table lacks `index` or `name`, or two regions would have one name.
    """
    where = f"preprocess.atlas.labels: {options.labels}"
    try:
        table = read_table(options.labels)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where} cannot be read as a tab-separated table; check the path and the file") from error
    if not {"index", "name"} <= set(table) or table.empty:
        raise ConfigError(f"{where} needs the columns index and name, separated by tabs, and a row a region")
    table = table[table["index"] > 0]
    names = [re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_") for name in table["name"]]
    for name in names:
        if names.count(name) > 1 or name in MEASURED:
            raise ConfigError(f"{where}: '{name}' names two regions or one of {', '.join(sorted(MEASURED))}; rename it")
    return dict(zip(table["index"].astype(int), names, strict=True))

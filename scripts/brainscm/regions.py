"""The regions whose volumes are measured: what they are called, and how one measures them.

Every preprocessed scan has one measure of its regions (`preprocess.tissues`), and its counterfactuals are measured by
it, too. A node of the graph may be named after a region, with or without its unit (`ventricles` or `ventricles_ml`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import pandas as pd

from brainscm.config import AtlasOptions
from brainscm.errors import BrainSCMError, ConfigError
from brainscm.images import Displacement, Mask, Volume
from brainscm.tsv import read_tsv


@dataclass(frozen=True)
class Region:
    """A region of the template's brain; its volume is that of some tissues within it, in the scan's own space, in ml.

    Attributes:
        name: of its node; its column in tables is `<name>_ml`.
        label, meaning: words for readers.
        tissues: whose probabilities are added up: gm, wm, csf.
        within: the attribute of `Template` that holds the region's mask; "" for the whole brain.
        is_sum: its volume is the sum of other regions, so that a mean over regions would count it twice.
    """

    name: str
    label: str
    meaning: str
    tissues: tuple[str, ...]
    within: str = ""
    is_sum: bool = False


REGIONS = (
    Region("gm", "grey matter", "Volume in the scan's own space.", ("gm",)),
    Region("wm", "white matter", "Volume in the scan's own space.", ("wm",)),
    Region("csf", "CSF", "Cerebrospinal fluid inside the brain mask, in the scan's own space.", ("csf",)),
    Region(
        "ventricles",
        "ventricles",
        "CSF in the template's ventricle region, carried to the scan by its alignment, in the scan's own space.",
        ("csf",),
        within="ventricles",
    ),
    Region("brain", "brain", "Grey and white matter together.", ("gm", "wm"), is_sum=True),
    Region(
        "medial_temporal_gm",
        "medial temporal grey matter",
        "Grey matter within 13 mm of the hippocampus's axis in the template (hippocampus, amygdala, parahippocampal "
        "cortex), carried to the scan by its alignment, in the scan's own space.",
        ("gm",),
        within="medial_temporal",
    ),
)
# What a discrete segmentation (dseg) calls the tissues; 0 is the background.
TISSUE_LABELS = {"gm": 1, "wm": 2, "csf": 3}
COMPARED = tuple(region.name for region in REGIONS if not region.is_sum)
# What preprocessing measures with any template.
MEASURED = frozenset({*(region.name for region in REGIONS), "head_size"})

LABELS = {region.name: region.label for region in REGIONS}
# What stands for the whole image, where a table has a row a region.
LATENT = "latent"


@dataclass(frozen=True)
class Geometry:
    """Where a preprocessed scan's brain lies in template space, which decides what of it is in which region.

    Attributes:
        mask: (x, y, z), the brain.
        head_size: determinant of the linear map from scan to template: 1 for what is not brought to a scan's own space.
        to_template: takes a voxel p of the scan to p + v(p) in the template, as the scan's alignment found it; None
            where it was not aligned, so that the template's regions stay where the linear map lays the scan.
    """

    mask: Mask
    head_size: float = 1.0
    to_template: Displacement | None = None


class RegionMeasure(Protocol):
    """Measures regions as they are in one scan, and in every image that stands in its place.

    What it holds of the scan, and first of all how bright its tissues are, is held for its counterfactuals, its true
    answer, its reconstruction and its follow-ups. Found anew in each of them it would slide along with what changed.
    """

    def volumes_ml(self, volume: Volume) -> dict[str, float]:
        """Volumes in ml by region, of the scan (x, y, z) or of what stands in its place, inside the scan's mask."""
        ...

    def at(self, geometry: Geometry) -> RegionMeasure:
        """The same measure for another scan of this participant, which lies elsewhere."""
        ...


class MeasureRegions(Protocol):
    """Makes the measure of a *factual* scan (x, y, z, template space); never give it a counterfactual."""

    def __call__(self, factual: Volume, geometry: Geometry) -> RegionMeasure: ...


def region_label(name: str) -> str:
    """Words for a region; one of an atlas keeps its name."""
    return LABELS.get(name, name.replace("_", " "))


def measured_names(atlas: AtlasOptions | None) -> frozenset[str]:
    """What preprocessing will measure, and a node of the graph may therefore be named after."""
    return MEASURED.union(atlas_regions(atlas).values() if atlas else ())


def atlas_regions(options: AtlasOptions) -> dict[int, str]:
    """The atlas's labels with their names as table columns have them: lower case, `_` for all but letters and digits.

    Raises:
        ConfigError: the table lacks `index` or `name`, or two regions would have one name.
    """
    where = f"preprocess.atlas.labels: {options.labels}"
    try:
        table = read_tsv(options.labels)
    except BrainSCMError as error:
        raise ConfigError(f"preprocess.atlas.labels: {error}") from error
    if not {"index", "name"} <= set(table) or table.empty:
        raise ConfigError(f"{where} needs the columns index and name, separated by tabs, and a row a region")
    labels = pd.to_numeric(table["index"], errors="coerce")
    if labels.isna().any() or (labels % 1 != 0).any():
        raise ConfigError(f"{where}: index '{table.loc[~(labels % 1 == 0), 'index'].iloc[0]}' is not a whole number")
    table = table.assign(index=labels)[labels > 0]
    names = [re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_") for name in table["name"]]
    for name in names:
        if names.count(name) > 1 or name in MEASURED:
            raise ConfigError(f"{where}: '{name}' names two regions or one of {', '.join(sorted(MEASURED))}; rename it")
    return dict(zip(table["index"].astype(int), names, strict=True))

"""Choose the T1w among the series of one visit to the scanner, and say of each of the others why not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What is written together with a contrast's name, before and behind it.
BEFORE = r"(?:[23]d|sag|ax|cor|tra|ir|moco|me|iso|hr|ef|wip|anat|s|e)*"
BEHIND = r"(?:[23]d|sag|ax|cor|tra|me|iso|\d*mm|rms|mpr|anat)*"
T1W = re.compile(
    rf"{BEFORE}(?:t1(?:w|wi|weighted)?|(?:t1w?)?(?:mp2?rage|bravo|f?spgr|fgre|tfl|tfe|mdeft|turboflash)\d?){BEHIND}\d?"
)
OTHER = re.compile(
    r"t2\w*|pdw?|flair\w*|stir|dwi|dti|adc|diff\w*|bold|fmri|epi|ep2d\w*|asl|pcasl|swi|swan|hemo|tof|mra|angio\w*|"
    # not the scan, but what is set up before it, or reckoned from it
    r"loc|locali[sz]er|scout|survey|setter|sbref|phantom|screen\w*|fieldmap|fmap|b0map|\w*map|maps|mapping|molli|"
    r"range|reformat\w*|qt1|quant\w*|relax\w*|t1rho|synth\w*|seg\w*|mask|subtract\w*|trace|mip|vrt|"
    # of another kind than magnitude, or one of several that are made to be combined
    r"phase|pha|real|imag|imaginary|psir|inv[12]|dixon|mt|mtc|mton|mtoff|mtr|vfa|"
    # a contrast agent on its way, and vessels
    r"dyn\w*|perf\w*|dce|dsc|vessel|vwi|neuromelanin|nm|"
    # not of the whole head
    r"\w?spine|spinal|cervical|lumbar|neck|carotid\w*|orbits?|iac|pituitary|sella|tmj|knee|hip|shoulder|abdomen|liver|"
    r"pelvis|breast|heart|cardiac|thorax|chest"
)
OTHER_PHRASE = re.compile(r"t1[ _-]images|[ _-]sub$|black[ _-]?blood")  # the first: MP2RAGE's map of T1 times
OTHER_TYPES = {
    "P", "PHASE", "R", "REAL", "I", "IMAGINARY", "T1 MAP", "T1_MAP", "MOSAIC", "MIP", "PROJECTION IMAGE", "INV1",
    "INV2", "DIFFUSION", "SUBTRACTION", "SUB", "SCREEN SAVE",
}  # fmt: skip
CONTRAST_AGENT = re.compile(r"gd|gad\w*|ce|km|post\w*|contrast\w*|\w+gd")
PLUS_C = re.compile(r"\+\s?c(?![a-z0-9])|(?<![a-z0-9])c\s?\+")  # as in "T1 +C"
BEFORE_AGENT = {"pre", "no", "non", "without", "wo", "o"}  # "w/o contrast" has none
COMBINED = {"rms", "mean"}  # the echoes of a multi-echo series in one image
LONGEST_ECHO_S = 0.03  # of a T1w; T2w and FLAIR have three times that


@dataclass(frozen=True)
class Series:
    """One converted 3D image, its side-car as dcm2niix wrote it, the edges of its voxels, and what dcm2niix said."""

    image: Path
    sidecar: dict[str, Any]
    voxel_mm: tuple[float, ...]
    warnings: list[str]

    @property
    def description(self) -> str:
        return str(self.sidecar.get("SeriesDescription") or self.sidecar.get("ProtocolName") or "")

    @property
    def number(self) -> int:
        return int(self.sidecar.get("SeriesNumber", 0))

    @property
    def date(self) -> str:
        """The day of the scan; "" where the scanner's files do not say."""
        return str(self.sidecar.get("AcquisitionDateTime", ""))[:10]

    @property
    def study(self) -> str:
        """What the series of one visit share: the identifier of their study, or else their day."""
        return str(self.sidecar.get("StudyInstanceUID") or self.date)

    @property
    def patient(self) -> str:
        """Whose series it is, by the scanner's own number or else the name."""
        return str(self.sidecar.get("PatientID") or self.sidecar.get("PatientName") or "")

    @property
    def image_type(self) -> set[str]:
        return {str(value).upper() for value in self.sidecar.get("ImageType", [])}


@dataclass(frozen=True)
class Choice:
    """A series, whether it is taken, and why."""

    series: Series
    taken: bool
    reason: str


def choose_series(candidates: Sequence[Series]) -> list[Choice]:
    """Choose the T1w of one visit.

    A series is a T1w if a whole word of its description, protocol or sequence says so and none says otherwise; one
    without such a word only where it is alone. Of several the one is taken that has
    no contrast agent, is as the scanner made it (or MP2RAGE's uniform image), 3D, and has the smallest voxels; series
    of the same description and kind are its runs.

    Returns:
        A choice a candidate, in their order.
    """
    refused = {id(series): reason for series in candidates if (reason := _refusal(series))}
    left = [series for series in candidates if id(series) not in refused]
    named = [series for series in left if _is_named_t1w(series)]
    if not named and len(candidates) == 1:
        named = left
    best = min(named, key=lambda series: (*_rank(series), series.number), default=None)
    choices = []
    for series in candidates:
        reason = refused.get(id(series), "nothing says that it is a T1w")
        taken = best is not None and any(series is run for run in _runs(best, named))
        if taken:
            reason = "a T1w by its name" if _is_named_t1w(series) else "the only 3D series"
        elif best is not None and any(series is other for other in named):
            reason = _why_not(series, best)
        choices.append(Choice(series, taken, reason))
    return choices


def _refusal(series: Series) -> str:
    """Why a series is no T1w; "" if nothing says so."""
    other = [word for word in _words(series.description) if OTHER.fullmatch(word)]
    other += OTHER_PHRASE.findall(series.description.lower())
    if other:
        return f"'{other[0]}' names another contrast"
    types = sorted(series.image_type & OTHER_TYPES)
    if types:
        return f"its image type is {types[0]}"
    echo_s = float(series.sidecar.get("EchoTime") or 0)
    if echo_s > LONGEST_ECHO_S:
        return f"its echo time of {1000 * echo_s:g} ms is none of a T1w"
    return ""


def has_contrast_agent(series: Series) -> bool:
    """Whether the description says so, and not that there is none."""
    words = _words(series.description)
    named = any(
        CONTRAST_AGENT.fullmatch(word) and before not in BEFORE_AGENT
        for before, word in zip(["", *words], words, strict=False)
    )
    return named or bool(PLUS_C.search(series.description.lower()))


def _is_named_t1w(series: Series) -> bool:
    texts = (
        series.description,
        *(series.sidecar.get(key) for key in ("ProtocolName", "PulseSequenceType", "SequenceName")),
    )
    return any(T1W.fullmatch(word) for text in texts for word in _words(str(text or "")))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", re.sub(r"mp(2?)[ _-]rage", r"mp\1rage", text.lower()))


# What is asked of a series, the most important first, and what is said of one that is worse than the one taken.
RANKS = (
    "has a contrast agent",
    "is derived from another series",
    "is not 3D",
    "has thicker slices or larger voxels",
    "is one echo of several",
    "is not corrected for the coil's intensity, or noisier",
)


def _rank(series: Series) -> tuple[float, ...]:
    """How far a series is from what is wanted, by each of `RANKS`; smaller is better."""
    words, kind = set(_words(series.description)), series.image_type
    uniform = bool({"UNI", "UNIFORM"} & kind or {"uni", "uniform", "unit1"} & words)
    return (
        has_contrast_agent(series),
        "DERIVED" in kind and not uniform,
        series.sidecar.get("MRAcquisitionType", "3D") != "3D",
        round(max(series.voxel_mm), 1),
        not (COMBINED & words or "MEAN" in kind),
        2 - ("NORM" in kind) - bool({"den", "dn"} & words),
    )


def _runs(best: Series, named: Sequence[Series]) -> list[Series]:
    """The best and the series that repeat it: images of other numbers, alike in description and rank."""
    alike = [s for s in named if s.description == best.description and _rank(s) == _rank(best)]
    first_of = {series.number: series for series in reversed(alike)}
    return [best, *(series for number, series in sorted(first_of.items()) if number != best.number)]


def _why_not(series: Series, best: Series) -> str:
    worse = [told for told, own, other in zip(RANKS, _rank(series), _rank(best), strict=True) if own > other]
    told = worse[0] if worse else "is another image of the same kind"
    return f"a T1w, but it {told}; '{best.description}' ({best.number}) is taken"

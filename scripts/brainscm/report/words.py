"""Numbers as sentences that a reader who has not seen the code can trust: what was found, how sure, and why not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from brainscm.config import Scalar, ScmOptions
from brainscm.questions import is_relative

METHODS = {
    "persistence": "No change",
    "mean_change": "Mean change",
    "voxel_glm": "Voxelwise GLM",
    "voxel_shrunken": "Voxelwise GLM, shrunken",
    "pca_glm": "PCA + GLM",
    "latent_glm": "BrainSCM",
    "pca_ceiling": "PCA at its best",
    "latent_ceiling": "BrainSCM's latent at its best",
}


@dataclass(frozen=True)
class Score:
    """A score of a method against the truth, in words; `decimals` are those shown, `ideal` is a reference, if any."""

    name: str
    short: str
    unit: str
    better: str
    decimals: int
    ideal: float | None = None


SCORES = {
    "psnr_brain_db": Score("PSNR in the brain", "PSNR", "dB", "higher is better", 1),
    "ssim_brain": Score("SSIM in the brain", "SSIM", "", "higher is better", 3),
    "change_correlation": Score("Correlation with the true change", "Correlation", "", "1 is perfect", 2, 1.0),
    "change_slope": Score("Size of the change: slope on the true change", "Slope", "", "1 is right", 2, 1.0),
    "region_volume_mae_ml": Score("Error of regional volumes", "Regional error", "ml", "lower is better", 2),
    "interval_coverage_95": Score("Coverage of 95 % intervals", "Coverage", "", "0.95 is right", 2, 0.95),
}
FEW_PARTICIPANTS = 20
TOO_FEW = 5  # participants: a sentence instead of tables and charts, and no ranks
LIMITS = (
    "A counterfactual is what a fitted model says: not a measurement, and not a diagnosis.",
    "It is causal only as far as the declared graph is right. An unmeasured common cause, or an arrow that is missing "
    "or reversed, makes it wrong without any warning on these pages.",
    "How participants of different ages differ is not how one participant changes.",
    "Beyond the range of the training participants (marked as extrapolation) the formula speaks, not the data.",
)


def number(value: Any, digits: int = 3) -> str:
    """A number to so many significant digits, an en dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e6:
        return signed(f"{value:,.0f}")
    text = f"{value:.{digits}g}"
    return signed(f"{value:,.0f}" if abs(value) >= 1000 or ("e" in text and abs(value) >= 1) else text)


def with_range(middle: float, low: float, high: float) -> str:
    """A number with its range, all three with as many decimals: `30.4 (30.0–30.9)`; an en dash where there is none."""
    if not all(map(math.isfinite, (middle, low, high))):
        return "–"
    is_whole = all(float(value).is_integer() for value in (middle, low, high))
    decimals = 0 if is_whole or not middle else max(0, 2 - math.floor(math.log10(abs(middle))))
    shown, start, end = (signed(f"{value:,.{decimals}f}") for value in (middle, low, high))
    return f"{shown} ({start}–{end})"


def signed(text: str) -> str:
    """A formatted number with a true minus sign."""
    return text.replace("-", "−")


def interval(value: float, low: float, high: float, decimals: int) -> Markup:
    """A value with its 95 % interval under it, without one where there is none; an en dash for no value."""
    if not math.isfinite(value):
        return Markup("–")
    shown, start, end = (signed(f"{number:.{decimals}f}") for number in (value, low, high))
    if not (math.isfinite(low) and math.isfinite(high)):
        return Markup("{}").format(shown)
    return Markup("{}<small>{} to {}</small>").format(shown, start, end)


def capitalised(text: str) -> str:
    """With a capital first letter; the others as they are (CSF)."""
    return text[:1].upper() + text[1:]


def p_value(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def undone_by(robustness_value: float, p: float, cause: str, outcome: str) -> str:
    """What an unmeasured common cause must explain to bring an effect to zero; "" where that is not known."""
    if not (math.isfinite(robustness_value) and math.isfinite(p)):
        return ""
    if p >= 0.05:
        return f"nothing: it may be chance (p {p_value(p)})"
    return f"{number(100 * robustness_value, 2)} % of what is left of {cause} and of {outcome}"


def plural(count: int, singular: str, several: str | None = None) -> str:
    return f"{count:,} {singular if count == 1 else several or singular + 's'}"


def intervention(do: Mapping[str, Scalar], options: ScmOptions) -> str:
    """`{age: "+20", diagnosis: CN}` as `age 20 years higher, diagnosis CN`."""
    parts = []
    for node, value in do.items():
        unit = f" {options.nodes[node].unit}" if node in options.nodes and options.nodes[node].unit else ""
        if is_relative(value):
            parts.append(f"{node} {str(value)[1:]}{unit} {'higher' if str(value)[0] == '+' else 'lower'}")
        else:
            parts.append(f"{node} {value:g}{unit}" if isinstance(value, int | float) else f"{node} {value}")
    return ", ".join(parts)


def trajectory(members: Sequence[Mapping[str, Scalar]], options: ScmOptions) -> str:
    """The interventions of a trajectory's members together: `diagnosis CN, age 50 years … age 90 years (9 values)`."""
    parts = []
    for node in dict.fromkeys(node for do in members for node in do):
        values = list(dict.fromkeys(do[node] for do in members if node in do))
        ends = [intervention({node: value}, options) for value in (values[0], values[-1])]
        parts.append(ends[0] if len(values) == 1 else f"{ends[0]} … {ends[1]} ({len(values)} values)")
    return ", ".join(parts)


def size_of_change(slope: float) -> str:
    """What a slope of predicted on true change means."""
    if abs(slope) < 0.1:
        return f"hardly there: {signed(f'{slope:.2f}')} of the true change"
    if slope < 0:
        return f"in the wrong direction ({signed(f'{slope:.2f}')})"
    if slope < 0.9:
        return f"too small: {slope:.2f} of the true change"
    if slope > 1.1:
        return f"too large: {slope:.2f} times the true change"
    return f"about the right size ({slope:.2f} of the true change)"

"""The declared structural causal model of the simulated cohort: who takes part, and what an intervention does.

A participant's exogenous noise is drawn once from (seed, participant) and kept, so that a counterfactual is the same
participant in another world and a follow-up the same participant later.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from brainscm.errors import BrainSCMError

SEXES = ("F", "M")
DIAGNOSES = ("CN", "MCI", "AD")
SITES = ("A", "B")
MEDIATORS = ("diagnosis", "ventricles", "medial_temporal_gm")

LEVELS = {"sex": SEXES, "site": SITES, "diagnosis": DIAGNOSES}
LIMITS = {"age": (15.0, 100.0), "ventricles": (5.0, 150.0), "medial_temporal_gm": (10.0, 40.0)}

# Decades from 50 years enter as d; every `log_` equation gives millilitres.
COEFFICIENTS: dict[str, dict[str, float]] = {
    "disease": {"d": 0.9, "male": -0.25, "noise": 1.0},
    "disease_thresholds": {"MCI": 2.05, "AD": 3.15},
    "log_head_size": {"intercept": 7.24, "male": 0.11, "noise": 0.07},
    "log_ventricles": {
        "intercept": 2.78, "d": 0.20, "d2": 0.015, "male": 0.08, "d_male": 0.05,
        "mci": 0.16, "ad": 0.34, "log_head_size_ratio": 0.7, "noise": 0.26,
    },
    "log_medial_temporal_gm": {
        "intercept": 3.16, "d": -0.035, "d2": -0.006, "male": 0.02,
        "mci": -0.08, "ad": -0.20, "log_head_size_ratio": 0.8, "noise": 0.06,
    },
    "sulcal_widening": {"intercept": 0.55, "d": 0.27, "d2": 0.02, "mci": 0.15, "ad": 0.40, "noise": 0.18},
    "white_matter_lesions": {"intercept": 0.12, "d": 0.07, "d2": 0.02, "noise": 0.06},
    "grey_white_contrast": {"intercept": 0.275, "d": -0.012, "noise": 0.010},
}  # fmt: skip

EQUATIONS = {
    "d": "(age - 50) / 10",
    "sex": "F or M, half each",
    "age": "20 + 70 u^0.9 years, u uniform",
    "site": "A (0.6) or B (0.4)",
    "diagnosis": "MCI where disease passes the first of disease_thresholds, AD where it passes the second, else CN; "
    "the noise of disease is logistic",
    "head_size": "exp(log_head_size), intracranial volume in ml; log_head_size_ratio is log(head_size / 1400 ml)",
    "ventricles": "exp(log_ventricles), ml; d_male is the interaction of age and sex",
    "medial_temporal_gm": "exp(log_medial_temporal_gm), ml of grey matter within 13 mm of the hippocampal axis",
    "image": "the head deformed until both volumes hold, sulci widened by sulcal_widening (about mm), white matter "
    "darkened near the ventricles by white_matter_lesions, grey matter darker than white by grey_white_contrast; "
    "then the scanner of site",
}
HELD = {"head_size": "held in every counterfactual: registration to the template takes it away again"}


@dataclass(frozen=True)
class Noise:
    """One participant's exogenous noise: uniform for the drawn covariates, standard normal for the rest."""

    age: float
    sex: float
    site: float
    diagnosis: float
    head_size: float
    ventricles: float
    medial_temporal_gm: float
    sulcal_widening: float
    white_matter_lesions: float
    grey_white_contrast: float


@dataclass(frozen=True)
class Nodes:
    """The values of every node of a participant in one session: years, millilitres, and the image's own mechanisms."""

    sex: str
    age: float
    site: str
    diagnosis: str
    head_size: float
    ventricles: float
    medial_temporal_gm: float
    sulcal_widening: float
    white_matter_lesions: float
    grey_white_contrast: float


def generator(seed: int, *names: str) -> np.random.Generator:
    """A random generator that depends on `seed` and `names` only."""
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, dtype=np.uint32).tolist()])


def draw_noise(seed: int, participant: int) -> Noise:
    """The noise of participant 1, 2, …

    Covariates follow a shifted quasi-random sequence (Roberts' additive recurrence), so that ages, sexes, sites and
    diagnoses are evenly mixed even in a cohort of ten; the rest is independent.
    """
    dimensions = 4
    root = _unit_root(dimensions)
    shift = generator(seed, "covariates").random(dimensions)
    uniform = (shift + participant * root ** -np.arange(1.0, dimensions + 1)) % 1
    normal = generator(seed, f"participant {participant}", "traits").standard_normal(6).clip(-2.5, 2.5)
    return Noise(*uniform.tolist(), *normal.tolist())


def _unit_root(dimensions: int) -> float:
    """The root above 1 of x^(d+1) = x + 1."""
    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (dimensions + 1))
    return root


def draw_nodes(noise: Noise) -> Nodes:
    """A participant at their first session."""
    age = round(20 + 70 * noise.age**0.9, 1)
    sex = SEXES[int(noise.sex >= 0.5)]
    site = SITES[int(noise.site >= 0.6)]
    head_size = math.exp(_predict("log_head_size", _terms(age, sex), noise.head_size))
    return _respond(Nodes(sex, age, site, DIAGNOSES[0], head_size, 0, 0, 0, 0, 0), noise)


def later(nodes: Nodes, noise: Noise, years: float) -> Nodes:
    """The same participant `years` on."""
    return _respond(replace(nodes, age=round(nodes.age + years, 1)), noise)


def intervene(nodes: Nodes, noise: Noise, do: Mapping[str, float | int | str], effect: str) -> Nodes:
    """The nodes that the same participant would have under `do`: "+10" is relative, `effect` is "total" or "direct".

    A direct effect holds the mediators at their factual values. Raises BrainSCMError for a node or a level that the
    simulator does not know.
    """
    held = {node: _acted_value(nodes, node, value) for node, value in do.items()}
    if effect == "direct":
        held = {**{node: getattr(nodes, node) for node in MEDIATORS}, **held}
    return _respond(replace(nodes, **held), noise, held)


def _acted_value(nodes: Nodes, node: str, value: float | int | str) -> Any:
    if node in LEVELS:
        if value not in LEVELS[node]:
            raise BrainSCMError(f"the simulator's {node} has the levels {', '.join(LEVELS[node])}, not {value!r}")
        return value
    if node not in LIMITS:
        raise BrainSCMError(f"the simulator has no node {node!r}; it has {', '.join((*LEVELS, *LIMITS))}")
    relative = isinstance(value, str) and value[:1] in ("+", "-")
    try:
        number = float(value) + (getattr(nodes, node) if relative else 0.0)
    except ValueError:
        raise BrainSCMError(f"{node} cannot be set to {value!r}; give a number") from None
    low, high = LIMITS[node]
    if not low <= number <= high:
        raise BrainSCMError(f"{node} = {number:g} is outside what the simulator draws ({low:g} to {high:g})")
    return number


def _respond(nodes: Nodes, noise: Noise, held: Collection[str] = ()) -> Nodes:
    """Every descendant of sex and age that is not `held`, computed with the participant's own noise."""
    ratio = math.log(nodes.head_size / 1400)
    if "diagnosis" not in held:
        severity = _predict("disease", _terms(nodes.age, nodes.sex), math.log(noise.diagnosis / (1 - noise.diagnosis)))
        passed = sum(severity >= threshold for threshold in COEFFICIENTS["disease_thresholds"].values())
        nodes = replace(nodes, diagnosis=DIAGNOSES[passed])
    terms = _terms(nodes.age, nodes.sex, nodes.diagnosis, ratio)
    values: dict[str, Any] = {
        "ventricles": math.exp(_predict("log_ventricles", terms, noise.ventricles)),
        "medial_temporal_gm": math.exp(_predict("log_medial_temporal_gm", terms, noise.medial_temporal_gm)),
        "sulcal_widening": _predict("sulcal_widening", terms, noise.sulcal_widening),
        "white_matter_lesions": max(0.0, _predict("white_matter_lesions", terms, noise.white_matter_lesions)),
        "grey_white_contrast": _predict("grey_white_contrast", terms, noise.grey_white_contrast),
    }
    return replace(nodes, **{node: value for node, value in values.items() if node not in held})


def _terms(age: float, sex: str, diagnosis: str = "CN", log_head_size_ratio: float = 0.0) -> dict[str, float]:
    decades, male = (age - 50) / 10, float(sex == "M")
    return {
        "intercept": 1.0,
        "d": decades,
        "d2": decades**2,
        "male": male,
        "d_male": decades * male,
        "mci": float(diagnosis == "MCI"),
        "ad": float(diagnosis == "AD"),
        "log_head_size_ratio": log_head_size_ratio,
    }


def _predict(equation: str, terms: Mapping[str, float], noise: float = 0.0) -> float:
    return sum(value * {**terms, "noise": noise}[term] for term, value in COEFFICIENTS[equation].items())


def declaration() -> dict[str, Any]:
    """The model as truth.json tells it: equations, coefficients, mediators, and what is held."""
    return {
        "equations": EQUATIONS,
        "coefficients": COEFFICIENTS,
        "noise": "`noise` is the standard deviation of a normal term, drawn once a participant",
        "mediators": MEDIATORS,
        "held": HELD,
    }

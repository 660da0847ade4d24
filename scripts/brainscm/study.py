"""Turn config.yaml and a study's own file into one checked configuration, before any work starts."""

from __future__ import annotations

import copy
import difflib
import re
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from brainscm.config import Config
from brainscm.errors import ConfigError
from brainscm.scm.graph import check_graph

# What a study with scans of its own starts from, where config.yaml has what suits the small demo.
OWN_VOXEL_MM = 2.0
OWN_GRAPH = {"nodes": {"age": {"unit": "years"}, "sex": {}}, "image": {"formula": "age + sex"}}


def load_study(defaults: Path, study: dict[str, Any]) -> Config:
    """Lay a study's options over the defaults and check the whole.

    Sections are merged key by key, with one exception: a study that names its own `scm.nodes` gets none of the default
    graph (its image formula, contrasts and queries speak of other nodes). A study that brings its own scans starts from
    a 2 mm grid and, if it declares no graph, from age and sex alone.

    Raises:
        ConfigError: one sentence that names the key, what is wrong with it, and what to do.
    """
    base = yaml.safe_load(defaults.read_text())
    study = copy.deepcopy(study)
    if study.get("bids_dir") is not None or study.get("dicom_dir") is not None:
        base["preprocess"]["voxel_mm"] = OWN_VOXEL_MM
        if not (study.get("scm") or {}).get("nodes"):
            study["scm"] = {**OWN_GRAPH, **(study.get("scm") or {})}
    if (study.get("scm") or {}).get("nodes"):
        base["scm"] = {}
        base.pop("counterfactuals", None)
    try:
        config = Config.model_validate(_merge(base, study))
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from error
    check_graph(config.scm, config.counterfactuals)
    return config


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        # A custom template (a mapping) replaces a template's name as a whole; so does a `do`.
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _sentence(error: ValidationError) -> str:
    """Tell the first problem of a pydantic error in one sentence, with the nearest known key for a misspelt one."""
    problems = error.errors()
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    # pydantic also puts the name of a union's member into the location; users know only keys.
    keys = [
        str(part)
        for part in problem["loc"]
        if re.fullmatch(r"[a-z0-9_]+|\d+", str(part)) or part in _user_keys(problem)
    ]
    where = "config: " + ".".join(keys)
    if problem["type"] == "extra_forbidden":
        known = _known_keys(keys[:-1])
        nearest = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"known here: {', '.join(known)}."
        return f"{where}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{where}: missing; add it (see the comments in config.yaml)."
    what = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) or given is None else ""
    return f"{where}: {what[0].lower()}{what[1:]}{shown}; see the comments in config.yaml."


def _user_keys(problem: Any) -> set[Any]:
    return {problem["loc"][-1]} if problem["type"] in ("extra_forbidden", "missing") else set()


def _known_keys(path: list[str]) -> list[str]:
    """The keys that the models allow at a place in the configuration."""
    models: list[Any] = [Config]
    for part in path:
        found: list[Any] = []
        for model in models:
            if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
                found.extend(_members(model.model_fields[part].annotation))
            elif get_origin(model) in (dict, list):
                found.extend(_members(get_args(model)[-1]))
        models = found
    return [key for m in models if isinstance(m, type) and issubclass(m, BaseModel) for key in m.model_fields]


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]

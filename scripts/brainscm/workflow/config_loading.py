"""Turn config.yaml, demo.yaml and a study's own file into one checked configuration, before any work starts."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from brainscm.bundle import Bundle
from brainscm.config import Config
from brainscm.errors import ConfigError
from brainscm.preprocess.template_files import check_template
from brainscm.questions import read_queries, source_of
from brainscm.scm.graph import check_graph

# What a value should have been, for pydantic's types of error; its own sentences speak of Python.
EXPECTED = {
    "model_type": "a section, with its options below it as `key: value`",
    "dict_type": "a section, with its options below it as `key: value`",
    "list_type": "a list, like [a, b]",
    "tuple_type": "two values, like [50, 80]",
    "too_long": "two values, like [50, 80]",
    "float_type": "a number",
    "float_parsing": "a number, with a point for its decimals and without its unit",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number",
    "finite_number": "a finite number",
    "string_type": "text (in quotes, if it looks like a number or a yes or no)",
    "path_type": "a path, like /data/my-study",
    "string_pattern_mismatch": "made of letters, digits, _ and -, beginning with a letter",
    "string_too_long": "a shorter name",
    "invalid_key": "an option's name (is it a comma for a decimal point?)",
    "too_short": "given at least one entry",
}

LONGEST = 100  # characters of a value that is shown
TEMPLATE = "__use_yte__"  # a key by which Snakemake knows templates

# Types of error that say what is wrong with a value of the right kind; the others say that it is of another kind.
TELLING = ("value_error", "too_short", "missing")


def load_config(folder: Path, study: dict[str, Any], is_checked: bool = False) -> Config:
    """Lay a study's options over the defaults and check the whole.

    `folder` holds config.yaml, the defaults, and demo.yaml, which is laid over them while no scans are given. Sections
    are merged key by key, with one exception: what names `scm.nodes` gets nothing of the graph below it (its image
    formula, contrasts and queries speak of other nodes). A study that names a bundle has the bundle's options between
    the defaults and its own, which may not say otherwise.

    Args:
        is_checked: the run that this is a job of has checked what is beyond single values: the graph and its questions,
            folders and the template. Each job of a cluster reads the configuration, and what checks it loads slowly.

    Raises:
        ConfigError: one sentence that names the key, what is wrong with it, and what to do.
    """
    merged = _read(folder / "config.yaml")
    given = {**merged, **study}
    bundle = Bundle.open(Path(str(given["bundle"])).expanduser()) if given.get("bundle") is not None else None
    if bundle is not None:
        merged = _lay_over(merged, bundle.options)
    elif given.get("bids_dir") is None and given.get("dicom_dir") is None:
        merged = _lay_over(merged, _read(folder / "demo.yaml"))
    merged = _lay_over(merged, study)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_sentence(error, merged)) from error
    if bundle is not None:
        bundle.check(config)
    if not is_checked:
        check_graph(config.scm, read_queries(config.counterfactuals), source_of(config.counterfactuals))
        _check_folders(config)
        check_template(config.template)
    return config


def check_study_file(path: Path) -> None:
    """Refuse a study file that is a program, or that writes a key twice in one section: YAML silently keeps the last.

    Snakemake takes a file with the key `__use_yte__` for a template, and runs what stands in it as Python; a profile of
    ours keeps it from doing so.

    Raises:
        ConfigError: one sentence with the file, the line, the key, and where it stood first.
    """

    def visit(node: yaml.Node | None) -> None:
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                visit(item)
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                name = str(key.value)
                if name == TEMPLATE:
                    raise ConfigError(
                        f"{path}, line {line}: '{name}' makes a program of the file, and a study file holds plain "
                        "values; look at what stands behind each '?', and take both out."
                    )
                if name in lines:
                    raise ConfigError(
                        f"{path}, line {line}: '{name}' is already written in line {lines[name]}; keep one of the two."
                    )
                lines[name] = line
                visit(value)

    visit(yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader))


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _lay_over(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    graph = over.get("scm")
    names_nodes = isinstance(graph, dict) and bool(graph.get("nodes"))
    return _merge(_without_graph(base) if names_nodes else base, over)


def _without_graph(options: dict[str, Any]) -> dict[str, Any]:
    """Options without the nodes and what speaks of them: the image's formula, contrasts and queries."""
    scm = _without(options.get("scm", {}), "nodes", "contrasts")
    image = _without(scm.get("image", {}), "formula")
    return {**_without(options, "counterfactuals"), "scm": {**scm, "image": image}}


def _without(section: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in keys}


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        # A custom template (a mapping) replaces a template's name as a whole; so does a `do`.
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _check_folders(config: Config) -> None:
    """Check that the scans' folder is there and that the folders of results can be made and written to."""
    if config.derivatives is not None:
        _check_derivatives(config.derivatives.absolute())
    for key in ("bids_dir", "dicom_dir", "derivatives", "bundle", "output_dir", "work_dir"):
        folder = getattr(config, key)
        if folder is not None and re.search(r"[{}]", str(folder.absolute())):
            raise ConfigError(
                f"config: {key}: {folder.absolute()} has a brace in it, which Snakemake takes for a wildcard; "
                "rename the folder, or make a link to it."
            )
    if config.bids_dir is not None and not config.bids_dir.is_dir():
        raise ConfigError(
            f"config: bids_dir: {config.bids_dir.absolute()} is not a folder; set it to the top of a BIDS data set "
            "(a relative path starts at the folder in which snakemake is called)."
        )
    for key, source in (("bids_dir", config.bids_dir), ("dicom_dir", config.dicom_dir)):
        if source is not None and source.is_dir() and not os.access(source, os.R_OK | os.X_OK):
            raise ConfigError(f"config: {key}: {source.absolute()} cannot be read; mend its permissions.")
    for key, folder in (("output_dir", config.output_dir), ("work_dir", config.work_dir)):
        there = folder.absolute()
        while not os.path.exists(there):
            there = there.parent
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise ConfigError(
                f"config: {key}: {there} is {'not writable' if there.is_dir() else 'a file'}, so {folder.absolute()} "
                "cannot be made there; name another folder."
            )


def _check_derivatives(folder: Path) -> None:
    top = "set it to the top of a folder of BIDS derivatives (where its dataset_description.json lies)"
    if not folder.is_dir():
        raise ConfigError(f"config: derivatives: {folder} is not a folder; {top}.")
    if next(folder.glob("sub-*"), None) is None:
        meant = sorted({path.parent.name for path in folder.glob("*/sub-*")})
        hint = f"did you mean {folder / meant[0]}?" if meant else f"{top}."
        raise ConfigError(f"config: derivatives: {folder} has no folder sub-…; {hint}")


def _sentence(error: ValidationError, given: dict[str, Any]) -> str:
    """Tell the first problem of a pydantic error in one sentence, with the nearest known key for a misspelt one."""
    problems = [(_keys(problem["loc"], given, problem["type"]), problem) for problem in error.errors()]
    for keys, problem in problems:
        if problem["type"] == "extra_forbidden":
            known = _known_keys(keys[:-1])
            nearest = difflib.get_close_matches(str(keys[-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean '{nearest[0]}'?" if nearest else f"known here: {', '.join(known)}."
            return f"{_place(keys)}: unknown key; {hint}"
    # Of a value that may be several things each is a problem; the deepest place is the one that was meant.
    keys, problem = max(problems, key=lambda found: (len(found[0]), found[1]["type"] in TELLING))
    where = _place(keys)
    if problem["type"] == "missing":
        return f"{where}: missing; add it (see the comments in config.yaml)."
    value = problem["input"]
    if value is None and keys[-1] != "bids_dir":
        empty = "{} for none" if problem["type"] in ("model_type", "dict_type") else "leave it out"
        return f"{where}: nothing is written there; write what belongs there, or {empty}."
    shown = _shown(value) if isinstance(value, str | int | float | list) else ""
    if problem["type"] == "value_error":
        return f"{where}: {problem['ctx']['error']!s}{shown}; see the comments in config.yaml."
    expected = dict.fromkeys(_expected(other) for place, other in problems if place == keys)
    return f"{where}: should be {' or '.join(expected)}{shown}; see the comments in config.yaml."


def _shown(value: Any) -> str:
    """A value as it was given; of a long one the beginning."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits, and YAML reads one in hexadecimal digits
        return ""
    return f" (given: {text if len(text) <= LONGEST else f'{text[:LONGEST]}…'})"


def _expected(problem: Any) -> str:
    return EXPECTED.get(problem["type"], problem["msg"].removeprefix("Input should be "))


def _keys(location: tuple[int | str, ...], given: Any, error: str) -> list[int | str]:
    """The part of a pydantic location that is in the configuration, or is missed there.

    A location also names members of unions and validators.
    """
    keys: list[int | str] = []
    for place, part in enumerate(location):
        known = part in given if isinstance(given, dict) else isinstance(given, list) and part in range(len(given))
        if known:
            given = given[part]
        elif place < len(location) - 1 or error not in ("missing", "extra_forbidden"):
            continue
        keys.append(part)
    return keys


def _place(keys: list[int | str]) -> str:
    """`config: counterfactuals[0].do`"""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return f"config: {text.removeprefix('.')}" if keys else "config"


def _known_keys(path: list[int | str]) -> list[str]:
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

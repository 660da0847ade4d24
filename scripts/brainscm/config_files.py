"""Write what readers and editors see of the options, from the models in config.py (`make schema`).

That is config.yaml, its JSON schema, that of a table of questions, and the page docs/reference/configuration.md.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from brainscm.config import NAME, Config, QueryOptions
from brainscm.questions import SETTINGS, TABLE_COLUMNS
from brainscm.wording import listed

ROOT = Path(__file__).parents[2]
WIDTH = 120
COMMENT_COLUMN = 26
REQUIRED = object()
NO_BREAK = "\N{NO-BREAK SPACE}"

CONFIG_HEAD = """\
# yaml-language-server: $schema=schemas/config.schema.json
# Every option with its default; `make schema` writes this file from scripts/brainscm/config.py.
# For a study of your own, write a file with only what differs and pass it with --configfile my-study.yaml.
# While neither bids_dir nor dicom_dir is given, demo.yaml is laid over these defaults: `snakemake` alone runs the demo.
"""
PAGE_HEAD = """\
<!-- `make schema` writes this page from scripts/brainscm/config.py: mend a description there. -->

# Reference: configuration

Every option with its default, what it may be, and what it is in [demo.yaml](../../demo.yaml) where that says otherwise.
[Write a study](../how-to/study.md) tells how a study's own file is laid over the defaults.
"""


@dataclass(frozen=True)
class Option:
    """An option as a reader sees it; its texts are Markdown.

    limits: what it may be, with its unit. demo: its value in demo.yaml, or None. parts: the options of a section or,
    where `is_section` is false, those of an entry of the list or mapping that it is.
    """

    key: str
    text: str
    limits: str
    default: Any
    demo: Any
    is_section: bool
    parts: list[Option]


def config_schema() -> str:
    """The text of schemas/config.schema.json."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
    # A study's file may leave out what the defaults hold.
    for section in ("ScmOptions", "ImageOptions"):
        del schema["$defs"][section]["required"]
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def questions_schema() -> str:
    """The text of schemas/questions.schema.json: a row of a table of questions, as an object of its cells."""
    texts: dict[str, dict[str, Any]] = {
        name: {"type": "string", "description": text} for name, text in TABLE_COLUMNS.items()
    }
    texts["name"]["pattern"] = NAME
    texts["scan"]["pattern"] = texts["participant_id"]["pattern"] = r"^(sub-)?[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?$"
    texts["session_id"]["pattern"] = r"^((ses-)?[A-Za-z0-9]+|n/a)$"
    for key in SETTINGS:
        words = get_args(QueryOptions.model_fields[key].annotation)
        texts[key] = {"enum": [*words, "n/a"], "description": TABLE_COLUMNS[key]}
    of_nodes = [name for name in TABLE_COLUMNS if name.endswith("<node>")]
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A row of a table of questions (TSV): a scan and what is asked of it",
        "type": "object",
        "properties": {name: text for name, text in texts.items() if name not in of_nodes},
        "patternProperties": {f"^{name.removesuffix('<node>')}.+$": texts[name] for name in of_nodes},
        "required": ["name"],
        "oneOf": [{"required": ["participant_id"]}, {"required": ["scan"]}],
        "additionalProperties": False,
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def default_config() -> str:
    """The text of config.yaml."""
    options = read_options().parts
    blocks = [[option for option in options if not option.parts], *([option] for option in options if option.parts)]
    return "\n".join([CONFIG_HEAD, *("\n".join([*_yaml(block), ""]) for block in blocks)])


def reference_page() -> str:
    """The text of docs/reference/configuration.md."""
    return "\n".join([PAGE_HEAD, *_chapter(read_options()), ""])


FILES: dict[str, Callable[[], str]] = {
    "config.yaml": default_config,
    "schemas/config.schema.json": config_schema,
    "schemas/questions.schema.json": questions_schema,
    "docs/reference/configuration.md": reference_page,
}


def read_options() -> Option:
    """The whole configuration, as one section."""
    schema = Config.model_json_schema()
    demo = yaml.safe_load((ROOT / "demo.yaml").read_text(encoding="utf-8"))
    models = {"Config": schema, **schema["$defs"]}
    return _option("", {"$ref": "Config"}, models, Config().model_dump(mode="json"), demo)


def _option(key: str, field: dict[str, Any], models: dict[str, Any], default: Any, demo: Any) -> Option:
    """Read one option, and those below it, from its place in the JSON schema."""
    model = models.get(_model_of(field), {})
    is_section = "$ref" in field
    parts = []
    for name, part in model.get("properties", {}).items():
        value = default[name] if is_section else part.get("default", REQUIRED)
        parts.append(_option(name, part, models, value, (demo or {}).get(name) if is_section else None))
    return Option(
        key=key,
        text=" ".join(f"{field.get('description', '')} {model.get('description', '')}".split()),
        limits=_limits(field),
        default=default,
        demo=demo,
        is_section=is_section,
        parts=parts,
    )


def _model_of(field: Any) -> str:
    """The name of the model that a field is, or of which it is a list or mapping; empty if there is none."""
    if isinstance(field, dict):
        return field["$ref"].rpartition("/")[2] if "$ref" in field else _model_of(list(field.values()))
    return next(filter(None, map(_model_of, field)), "") if isinstance(field, list) else ""


def _limits(field: dict[str, Any]) -> str:
    """What a value may be, and its unit: "0.7 to 4 mm", "`vqvae` or `pca`"; empty if anything goes."""
    kinds = field.get("anyOf", [field])
    choices = [f"`{value}`" for kind in kinds for value in kind.get("enum", [])]
    if choices and any(kind["type"] == "array" for kind in kinds):
        choices.append("a list")
    entries: list[dict[str, Any]] = [kind.get("items") or next(iter(kind.get("prefixItems", [])), {}) for kind in kinds]
    each = [" ".join(filter(None, ["each", limits, of.get("unit")])) for of in entries if (limits := _range(of))]
    return " ".join(filter(None, [listed(choices, "or"), *each, *map(_range, kinds), field.get("unit")]))


def _range(kind: dict[str, Any]) -> str:
    if {"minimum", "maximum"} <= kind.keys():
        return f"{_plain(kind['minimum'])} to {_plain(kind['maximum'])}"
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return ", ".join(f"{word} {_plain(kind[key])}" for key, word in words.items() if key in kind)


def _plain(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:g}"


def _yaml(options: list[Option], indent: str = "") -> list[str]:
    """Lines of YAML: a plain option with its comment beside it, one that has options of its own with these above it."""
    lines: list[str] = []
    plain = {option.key: f"{indent}{option.key}: {_flow(option.default)}" for option in options if not option.parts}
    column = max([COMMENT_COLUMN, *(len(line) + 2 for line in plain.values())])
    for option in options:
        text = _comment(option.text, option.limits, _demo(option))
        if option.key in plain:
            lines += _wrap(text, f"{plain[option.key]:{column}}# ", f"{'':{column}}# ")
        elif option.is_section:
            lines += [*_wrap(text, f"{indent}# "), f"{indent}{option.key}:", *_yaml(option.parts, f"{indent}  ")]
        else:
            lines += [*_wrap(text, f"{indent}# "), *_entry_comments(option.parts, indent), *_entries(option, indent)]
    return lines


def _entry_comments(parts: list[Option], indent: str) -> list[str]:
    """What an entry of a list or mapping may hold, as a table within comments."""
    lines = []
    column = max(len(part.key) for part in parts) + 2
    for part in parts:
        default = "" if part.default is None else _default(part)
        text = _comment(part.text, default, part.limits)
        lines += _wrap(text, f"{indent}#   {part.key:{column}}", f"{indent}#   {'':{column}}")
    return lines


def _entries(option: Option, indent: str) -> list[str]:
    if not isinstance(option.default, dict):
        return [f"{indent}{option.key}: {_flow(option.default)}"]
    return [f"{indent}{option.key}:", *(f"{indent}  {key}: {_flow(entry)}" for key, entry in option.default.items())]


def _comment(text: str, *notes: str) -> str:
    told = "; ".join(filter(None, notes)).replace(" ", NO_BREAK)
    return (f"{text} [{told}]" if told else text).replace("`", "")


def _chapter(option: Option, path: str = "", heading: str = "#") -> list[str]:
    """Lines of the reference page: a text, the plain options below it, then a chapter for each that has its own."""
    lines = [*_wrap(option.text if option.is_section else f"{option.text} ({_notes(option)})"), ""]
    for part in option.parts:
        if not part.parts:
            lines += _wrap(f"- **`{part.key}`** ({_notes(part)}). {part.text}", "", "  ")
    for part in option.parts:
        if part.parts:
            below = f"{path}.{part.key}".removeprefix(".")
            lines += ["", f"{heading}# {below}", "", *_chapter(part, below, f"{heading}#")]
    return lines


def _notes(option: Option) -> str:
    return "; ".join(filter(None, [_default(option), option.limits, _demo(option)]))


def _default(option: Option) -> str:
    return "required" if option.default is REQUIRED else f"default `{_flow(option.default)}`"


def _demo(option: Option) -> str:
    if option.demo is None or option.is_section:
        return ""
    value = "others" if isinstance(option.demo, dict | list) else f"`{_flow(option.demo)}`"
    return f"{value} in demo.yaml"


def _flow(value: Any) -> str:
    """A value as YAML on one line, without what is left open in it."""
    text = yaml.safe_dump(_without_none(value), default_flow_style=True, sort_keys=False, width=sys.maxsize)
    return text.removesuffix("...\n").strip()


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(entry) for key, entry in value.items() if entry is not None}
    return value


def _wrap(text: str, first: str = "", below: str | None = None) -> list[str]:
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=first if below is None else below,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return [line.replace(NO_BREAK, " ") for line in lines]


if __name__ == "__main__":
    for name, text in FILES.items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_text(text(), encoding="utf-8")

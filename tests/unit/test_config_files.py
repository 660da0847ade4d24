"""What is written from the options: config.yaml, its schema and the reference page agree with the models."""

import json
from collections.abc import Iterator

import jsonschema
import pytest
import yaml

from brainscm.config import Config
from brainscm.config_files import FILES, ROOT, Option, config_schema, default_config, read_options


def within(option: Option) -> Iterator[Option]:
    for part in option.parts:
        yield part
        yield from within(part)


@pytest.mark.parametrize("name", FILES)
def test_file_is_the_one_that_the_models_give(name: str) -> None:
    path = ROOT / name
    assert path.read_text(encoding="utf-8") == FILES[name](), f"{name} is out of date; run `make schema`"


def test_config_yaml_holds_every_option_with_its_default() -> None:
    defaults = Config().model_dump(mode="json")
    defaults["scm"]["nodes"] = {"age": {"unit": "years"}, "sex": {}}  # without what is left open
    assert yaml.safe_load(default_config()) == defaults


def test_every_option_is_described() -> None:
    assert [option.key for option in within(read_options()) if not option.text] == []


@pytest.mark.parametrize("name", ["config.yaml", "demo.yaml", "benchmarks/truth.yaml"])
def test_editors_find_no_fault_with_our_own_files(name: str) -> None:
    jsonschema.validate(yaml.safe_load((ROOT / name).read_text(encoding="utf-8")), json.loads(config_schema()))


def test_lines_are_short_enough_to_be_read() -> None:
    for name in ("config.yaml", "docs/reference/configuration.md"):
        assert max(map(len, FILES[name]().splitlines())) <= 120, name

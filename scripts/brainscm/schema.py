"""Write schemas/config.schema.json from the typed options, for editors and for readers (`make schema`)."""

from __future__ import annotations

import json
from pathlib import Path

from brainscm.config import Config

PATH = Path(__file__).parents[2] / "schemas" / "config.schema.json"


def config_schema() -> str:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
    # Every option has a default in config.yaml, so a study's file may leave any of them out.
    schema.pop("required", None)
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    PATH.write_text(config_schema())

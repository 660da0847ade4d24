"""Where the report's templates, style and script lie."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parents[3] / "report"
TEMPLATES = ASSETS / "templates"

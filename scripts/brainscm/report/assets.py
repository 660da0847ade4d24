"""Where the report's templates, style and script lie."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parents[3] / "report"
TEMPLATES = ASSETS / "templates"
# The viewer of volumes, a package of others; `make` fetches it, and a report without it has no 3D.
NIIVUE = ASSETS / "niivue.umd.js"

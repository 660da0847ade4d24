"""Every link in the documentation leads somewhere, every page that the code names exists, and no line is too long."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*(ROOT / name for name in ("README.md", "CHANGELOG.md", "benchmarks/NOTES.md")), *ROOT.glob("docs/**/*.md")]
SOURCES = ("scripts", "rules", "report", "profiles", "benchmarks", "tests", "schemas")
LONGEST = 120

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FIGURES = re.compile(r"benchmarks/results/\w+\.json")
TEST = re.compile(r"\b(test_\w+)(?:`|\.py)")
PAGE_IN_CODE = re.compile(r"\bdocs/[\w/-]+\.md\b")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What can be linked to in a page, named as GitHub names it; a heading that comes twice is numbered."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", LINK.sub(lambda link: link[0][1:].split("]")[0], heading))
        found.append(words.strip().lower().replace(" ", "-"))
    return {name if found.index(name) == at else f"{name}-{found[:at].count(name)}" for at, name in enumerate(found)}


@pages
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page)):
        if link.startswith(("https:", "http:", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pages
def test_no_line_is_too_long(page: Path) -> None:
    lines = enumerate(page.read_text().splitlines(), start=1)
    assert not [number for number, line in lines if len(line) > LONGEST]


@pages
def test_every_figures_file_that_is_named_exists(page: Path) -> None:
    assert not [name for name in FIGURES.findall(page.read_text()) if not (ROOT / name).is_file()]


@pages
def test_every_test_that_is_named_exists(page: Path) -> None:
    files = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert not [name for name in TEST.findall(page.read_text()) if name not in files]


def test_every_page_of_docs_is_in_its_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(prose(index))}
    assert not [page for page in ROOT.glob("docs/**/*.md") if page != index and page not in linked]


def test_every_page_that_the_code_names_exists() -> None:
    files = [path for folder in SOURCES for path in (ROOT / folder).rglob("*") if path.suffix not in (".png", ".pyc")]
    files += [ROOT / name for name in ("config.yaml", "Makefile", "Snakefile")]
    named = {(path, name) for path in files if path.is_file() for name in PAGE_IN_CODE.findall(path.read_text())}
    assert named
    assert not [found for found in named if not (ROOT / found[1]).is_file()]

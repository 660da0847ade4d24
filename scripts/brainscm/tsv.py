"""Read the tables that people write as what they are: tab-separated text, every row as long as the header.

`tables.py` reads and writes the workflow's own tables; here nothing about a stranger's is guessed.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from pathlib import Path

import pandas as pd

from brainscm.errors import BrainSCMError

# What people write where nothing is known, in any case. "none" and "unknown" are not among them: they may be levels.
MISSING = frozenset({"", "n/a", "na", "n.a.", "nan", "<na>", "null", ".", "-", "--", "---", "?", "*"})
SPREADSHEET_ERROR = re.compile(r"#(n/a|value!|div/0!|ref!|name\?|num!|null!|spill!|calc!|nv|wert!|bezug!)|#+")
SIGNS = frozenset({"+", "-"})  # together in a column they are findings: positive and negative
INVISIBLE = re.compile("[\u200b\u200e\u200f\u2060\ufeff]")  # what copying from web pages and office programs leaves
LARGEST_POINTER = 1024  # bytes
POINTERS = (b"/annex/objects/", b"version https://git-lfs")  # what git keeps where a file's content was not fetched


def read_tsv(path: Path) -> pd.DataFrame:
    """Read a TSV into columns of text, stripped; None where a cell is empty or says that nothing is known.

    Quotation marks mean nothing, but for a cell that stands between two of them as a whole, which loses them: no
    quotation reaches beyond its cell. Empty lines are skipped, and so is a last column without name and content.

    Raises:
        BrainSCMError: it is not UTF-8, has no header, a name twice, or a row of another length; the message names the
            line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BrainSCMError(f"{path}: cannot be read ({error.strerror}); mend its permissions.") from error
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise BrainSCMError(f"{path}, line {line}: is not UTF-8 text; save the table as TSV in UTF-8.") from error
    numbered = [(number, line) for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1) if line.strip()]
    if not numbered:
        raise BrainSCMError(f"{path}: is empty; write a header and a row for each entry, or remove the file.")
    (first, header), *lines = [(number, [_cell(cell) for cell in line.split("\t")]) for number, line in numbered]
    for number, cells in lines:
        if len(cells) != len(header):
            raise BrainSCMError(
                f"{path}, line {number}: has {len(cells)} cells where the header has {len(header)} columns; give each "
                "row one cell a column, with a tab between and none at the end (n/a where nothing is known)."
            )
    if header[-1] == "" and not any(cells[-1] for _, cells in lines):
        header, lines = header[:-1], [(number, cells[:-1]) for number, cells in lines]
    if "" in header:
        raise BrainSCMError(f"{path}, line {first}: column {1 + header.index('')} has no name; name it or remove it.")
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise BrainSCMError(f"{path}, line {first}: the column '{twice[0]}' is there twice; keep one of the two.")
    table = pd.DataFrame([cells for _, cells in lines], columns=header, dtype=object)
    for column in table:
        given = set(table[column])
        missing = {cell for cell in given if _says_nothing(cell)} - (SIGNS if given >= SIGNS else set())
        table[column] = table[column].where(~table[column].isin(missing), None)
    return table


def require_column(table: pd.DataFrame, path: Path, name: str) -> None:
    """Check that a table has a column.

    Raises:
        BrainSCMError: it has not; the message says what is probably meant.
    """
    if name in table:
        return
    columns = [str(column) for column in table]
    if len(columns) == 1 and name in columns[0]:
        raise BrainSCMError(f"{path}: its columns are not separated by tabs ('{columns[0]}'); save it as TSV.")
    nearest = difflib.get_close_matches(name, columns, n=1, cutoff=0.4)
    hint = f"did you mean to rename '{nearest[0]}'?" if nearest else f"its columns are {', '.join(columns)}."
    raise BrainSCMError(f"{path}: no {name} column (columns are separated by tabs, not commas or spaces); {hint}")


def is_fetched(path: Path) -> bool:
    """Whether a file is there with its content: neither a dangling link nor a pointer of git-annex or git LFS.

    What cannot be looked at counts as there: who reads it says why not.
    """
    try:
        if path.stat().st_size > LARGEST_POINTER:
            return True
        content = path.read_bytes()
        return not (content.startswith(POINTERS) or b".git/annex/objects" in content)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _says_nothing(cell: str) -> bool:
    plain = cell.casefold()
    return plain in MISSING or SPREADSHEET_ERROR.fullmatch(plain) is not None


def _cell(text: str) -> str:
    text = INVISIBLE.sub("", text).strip()
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1]:
        text = text[1:-1].strip()
    return text

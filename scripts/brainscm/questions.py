"""The questions of a study, from its configuration or a table, as the single queries that are put to scans."""

from __future__ import annotations

import difflib
import itertools
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from pydantic import ValidationError

from brainscm.config import LONGEST_NAME, QueryOptions, QuestionOptions, RangeOptions, Scalar
from brainscm.errors import ConfigError
from brainscm.filters import Filter
from brainscm.tsv import read_tsv, require_column

WORDS = ("train", "validation", "test", "all")
MOST_MEMBERS = 1000  # of a trajectory
MOST_JOBS = 100
EVALUATED = 12  # questions: each costs the evaluation as much as a hundred counterfactuals
UNANSWERED_SCANS = 32  # of the test split, to which the evaluation puts a question without a known answer
ANSWERS = Path("derivatives", "truth", "counterfactuals.tsv")  # in a BIDS folder whose answers are known

# The columns of a table of questions; config_files.py writes its schema from them.
SET, CHANGE = "do_", "change_"
TABLE_COLUMNS = {
    "participant_id": "The participant, as in participants.tsv; with `session_id` one scan, without it all of them. Or "
    "give `scan`.",
    "session_id": "The session, as in sessions.tsv.",
    "scan": "The id of a scan or participant, as in the column `scan` of cohort/scans.tsv; in place of participant_id.",
    "name": "The question's name, used in file names and in the report. Rows of one name that ask for several values "
    "are the members of one trajectory.",
    f"{SET}<node>": "The new value of a node: a number or a level. Empty (n/a): the node is not set.",
    f"{CHANGE}<node>": "A change of a node, a number to be added: 10, -5.5. Empty (n/a): the node is not changed.",
    "effect": "`total` (also where it is empty): mediators respond; `direct`: all other nodes are held.",
    "decode": "`residual` (also where it is empty), `direct` or `quantized`.",
    "native": "`none` (also where it is empty), `brain` or `head`: what is also written on the raw scan's own grid.",
}
SETTINGS = ("effect", "decode", "native")  # columns of which all rows of one name say the same


def query_label(name: str) -> str:
    """The alphanumeric `desc-` label of a query's files: `younger-by_10` becomes `youngerBy10`."""
    first, *rest = [part for part in re.split(r"[^A-Za-z0-9]+", name) if part]
    return first + "".join(part[0].upper() + part[1:] for part in rest)


def is_relative(value: Scalar) -> bool:
    """Whether a query's value is a change, such as "+10", and not a new value."""
    return isinstance(value, str) and re.fullmatch(r"[+-]\d+(\.\d+)?", value) is not None


def as_change(number: float) -> str:
    """A change as a query states it: "+10", "-5.5"."""
    return f"{number:+.9f}".rstrip("0").rstrip(".")


def question_of(query: QueryOptions) -> str:
    """The name of the question as it was asked: that of the trajectory, where a query is a member of one."""
    return query.trajectory or query.name


def read_queries(asked: Sequence[QuestionOptions] | Path) -> list[QueryOptions]:
    """All queries of a study, in their order: those of its list, with trajectories expanded, or of its table.

    Raises:
        ConfigError: one sentence: where, what is wrong, what to do.
    """
    if isinstance(asked, Path):
        return _read_table(asked)
    names = [question.name for question in asked]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"config: counterfactuals: two questions are called '{twice[0]}'; rename one of them.")
    return [query for question in asked for query in expand(question)]


def source_of(asked: Sequence[QuestionOptions] | Path) -> str:
    """Where questions stand, for messages."""
    return str(asked) if isinstance(asked, Path) else "config: counterfactuals"


def expand(question: QuestionOptions) -> list[QueryOptions]:
    """The members of a question: itself where each node has one value, or one query for each combination of values.

    Members are named by their values: `ageing-age50`, `ageing-age55`, ….

    Raises:
        ConfigError: there are too many of them.
    """
    given = question.model_dump(exclude={"do"})
    where = f"config: counterfactuals ({question.name})"
    values = {node: _values(where, node, value) for node, value in question.do.items()}
    varied = [node for node, value in question.do.items() if isinstance(value, list | RangeOptions)]
    if not varied:
        return [QueryOptions(**given, do=question.do)]
    members = []
    for combination in itertools.product(*values.values()):
        do = dict(zip(values, combination, strict=True))
        name = member_name(question.name, do, varied)
        if len(name) > LONGEST_NAME:
            raise ConfigError(
                f"{where}: its member '{name[:LONGEST_NAME]}…' has too long a name; shorten the question's."
            )
        members.append(QueryOptions(**given | {"name": name}, do=do))
        if len(members) > MOST_MEMBERS:
            raise ConfigError(f"{where}: it has more than {MOST_MEMBERS} members; take larger steps, or split it.")
    return [member.model_copy(update={"trajectory": question.name}) for member in members]


def member_name(name: str, do: Mapping[str, Scalar], varied: Iterable[str]) -> str:
    """The name of a trajectory's member: its name, and the values of the nodes in which its members differ."""
    return "-".join([name, *(f"{node}{_word(do[node])}" for node in varied if node in do)])


def by_question(queries: Iterable[QueryOptions]) -> dict[str, list[QueryOptions]]:
    """The members of each question, in its order; of one that is no trajectory it is the one query."""
    members: dict[str, list[QueryOptions]] = {}
    for query in queries:
        members.setdefault(question_of(query), []).append(query)
    return members


def group_queries(queries: Iterable[QueryOptions]) -> dict[str, list[QueryOptions]]:
    """The queries of each job, by a label: a job a question, so that a changed one redoes its own volumes alone.

    Where there are very many questions they are dealt out by their names, so that one more changes one job.
    """
    labelled = {query_label(name): members for name, members in by_question(queries).items()}
    if len(labelled) <= MOST_JOBS:
        return labelled
    dealt: dict[str, list[QueryOptions]] = {}
    for label in sorted(labelled):
        dealt.setdefault(f"part{zlib.crc32(label.encode()) % MOST_JOBS:02d}", []).extend(labelled[label])
    return dict(sorted(dealt.items()))


def evaluated_queries(queries: Sequence[QueryOptions]) -> list[QueryOptions]:
    """Those that the evaluation asks: at most `EVALUATED` questions, evenly spaced, a trajectory by its two ends."""
    questions = list(by_question(queries).values())
    shown = min(len(questions), EVALUATED)
    chosen = [questions[round(k * (len(questions) - 1) / max(shown - 1, 1))] for k in range(shown)]
    return [query for members in chosen for query in (members if len(members) == 1 else (members[0], members[-1]))]


def select_scans(rows: pd.DataFrame, query: QueryOptions, source: str = "config: counterfactuals") -> pd.DataFrame:
    """The rows that a query is put to: a split, all, what its filter takes, or the scans and participants it lists.

    Args:
        rows: of the cohort: scan, participant, split, and what the filter names.
        source: where the query stands, for messages.

    Raises:
        ConfigError: a listed id is neither a scan nor a participant of the cohort, or the filter does not fit the
            table or takes no scan of it.
    """
    if isinstance(query.scans, list):
        wanted = [name if name.startswith("sub-") else f"sub-{name}" for name in query.scans]
        known = {*rows["scan"], *rows["participant"]}
        for name, given in zip(wanted, query.scans, strict=True):
            if name not in known:
                nearest = difflib.get_close_matches(name, sorted(known)[:5000], n=1, cutoff=0.5)
                hint = f"did you mean '{nearest[0]}'?" if nearest else "see the column scan of cohort/scans.tsv."
                raise ConfigError(
                    f"{source} ({question_of(query)}).scans: '{given}' is neither a scan nor a participant; {hint}"
                )
        return rows[rows["scan"].isin(wanted) | rows["participant"].isin(wanted)]
    chosen = check_scans(query, source)
    if chosen is not None:
        return rows[chosen.matches(rows)]
    return rows if query.scans == "all" else rows[rows["split"] == query.scans]


def check_scans(query: QueryOptions, source: str) -> Filter | None:
    """The filter by which a query chooses its scans, read; None where it names a split, all, or ids.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(query.scans, list) or query.scans in WORDS:
        return None
    where = f"{source} ({question_of(query)}).scans"
    if re.fullmatch(r"[A-Za-z]+", query.scans):
        nearest = difflib.get_close_matches(query.scans.casefold(), WORDS, n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else "write train, validation, test, all, ids or a filter."
        raise ConfigError(f"{where}: '{query.scans}' names no scans; {hint}")
    return Filter.parse(query.scans, where)


def _values(where: str, node: str, value: Scalar | list[Scalar] | RangeOptions) -> list[Scalar]:
    if isinstance(value, RangeOptions):
        first = float(value.start)
        steps = (float(value.to) - first) / value.step + 1e-9
        if steps >= MOST_MEMBERS:
            raise ConfigError(f"{where}: {node} has more than {MOST_MEMBERS} values; take larger steps.")
        numbers = [round(first + k * value.step, 9) for k in range(math.floor(steps) + 1)]
        if isinstance(value.start, str):
            return [as_change(number) for number in numbers]
        return [int(number) if number.is_integer() else number for number in numbers]
    if isinstance(value, list):
        twice = [each for each in value if value.count(each) > 1]
        if twice:
            raise ConfigError(f"{where}: {node}: {twice[0]} stands twice among its values; give it once.")
        return value
    return [value]


def _word(value: Scalar) -> str:
    """A value as a part of a name: 62.5 is 62p5, -3 is m3, "+10" is plus10."""
    if is_relative(value):
        return ("plus" if str(value)[0] == "+" else "minus") + str(value)[1:].replace(".", "p")
    if isinstance(value, str):
        return re.sub(r"[^A-Za-z0-9]", "", value)
    return f"{value:.9f}".rstrip("0").rstrip(".").replace("-", "m").replace(".", "p")


def _read_table(path: Path) -> list[QueryOptions]:
    """The queries of a table: one for each name and intervention in it, put to the scans whose rows ask for it."""
    if not path.is_file():
        raise ConfigError(f"config: counterfactuals: {path.absolute()} is not a file; name a table (TSV) of questions.")
    table = read_tsv(path)
    require_column(table, path, "name")
    if ("scan" in table) == ("participant_id" in table):
        raise ConfigError(f"{path}: needs one of the columns 'participant_id' and 'scan'; keep or add one of the two.")
    for column in map(str, table):
        _check_column(path, column, list(map(str, table)))
    scans: dict[str, dict[tuple[Any, ...], list[str]]] = {}  # by name, and by what is asked
    seen: dict[tuple[Any, ...], int] = {}
    for line, row in enumerate(_rows(table), 2):
        where = f"{path}, row {line}"
        scan, name, asked = _scan(row, where), row["name"], (_do(row, where), *map(row.get, SETTINGS))
        if name is None or scan is None:
            raise ConfigError(f"{where}: has no {'name' if name is None else 'scan'}; fill it in, or remove the row.")
        if (scan, name, asked) in seen:
            raise ConfigError(f"{where}: asks what row {seen[scan, name, asked]} asks already; remove one of the two.")
        seen[scan, name, asked] = line
        scans.setdefault(name, {}).setdefault(asked, []).append(scan)
    return [query for name, asked in scans.items() for query in _queries_of_name(path, name, asked)]


def _rows(table: pd.DataFrame) -> list[dict[str, str | None]]:
    columns = [list(table[column]) for column in table]
    return [dict(zip(map(str, table), cells, strict=True)) for cells in zip(*columns, strict=True)]


def _check_column(path: Path, column: str, columns: list[str]) -> None:
    if column in TABLE_COLUMNS or column.startswith((SET, CHANGE)):
        return
    known = [name for name in TABLE_COLUMNS if "<" not in name]
    nearest = difflib.get_close_matches(column, known, n=1)
    hint = f"'{nearest[0]}'" if nearest and nearest[0] not in columns else f"'{SET}{column}' or '{CHANGE}{column}'"
    raise ConfigError(f"{path}: the column '{column}' is not understood; did you mean {hint}?")


def _scan(row: Mapping[str, str | None], where: str) -> str | None:
    """The id that a row asks about, with BIDS's prefixes."""
    participant, session = row.get("scan") or row.get("participant_id"), row.get("session_id")
    if participant is None:
        return None
    if "scan" in row and session is not None:
        raise ConfigError(
            f"{where}: gives a scan and a session; keep the columns scan, or participant_id and session_id."
        )
    scan = participant if participant.startswith("sub-") else f"sub-{participant}"
    return scan if session is None else f"{scan}_{session if session.startswith('ses-') else f'ses-{session}'}"


def _do(row: Mapping[str, str | None], where: str) -> tuple[tuple[str, Scalar], ...]:
    do: dict[str, Scalar] = {}
    for column, cell in row.items():
        if cell is None or not column.startswith((SET, CHANGE)):
            continue
        node = column.removeprefix(SET if column.startswith(SET) else CHANGE)
        if node in do:
            raise ConfigError(f"{where}: sets {node} and changes it; keep one of the two cells.")
        do[node] = _change(cell, where, column) if column.startswith(CHANGE) else _new_value(cell, where, node)
    if not do:
        raise ConfigError(f"{where}: asks nothing; fill in a column {SET}<node> or {CHANGE}<node>.")
    return tuple(do.items())


def _change(cell: str, where: str, column: str) -> str:
    if not re.fullmatch(r"[+-]?\d{1,15}(\.\d+)?", cell):
        raise ConfigError(
            f"{where}: {column} '{cell}' is not a number of at most 15 digits; write a change like 10 or -5.5."
        )
    return as_change(float(cell))


def _new_value(cell: str, where: str, node: str) -> Scalar:
    """A number where a cell is one as it would be written; else a level, such as 01 or a serial number."""
    if cell.startswith("+"):
        raise ConfigError(f"{where}: {SET}{node} '{cell}' is a change; write {cell[1:]} into a column {CHANGE}{node}.")
    if re.fullmatch(r"-?(0|[1-9]\d{0,14})", cell):
        return int(cell)
    return float(cell) if re.fullmatch(r"-?(0|[1-9]\d{0,14})\.\d+", cell) else cell


def _queries_of_name(path: Path, name: str, asked: Mapping[tuple[Any, ...], list[str]]) -> list[QueryOptions]:
    """One query, or the members of a trajectory where several interventions have one name."""
    settings = {tuple(own) for _, *own in asked}
    if len(settings) > 1:
        differing = next(key for key, *words in zip(SETTINGS, *settings, strict=True) if len({*words}) > 1)
        raise ConfigError(f"{path}: rows of '{name}' differ in {differing}; give those that do another name.")
    dos = [dict(do) for do, *_ in asked]
    nodes = dict.fromkeys(node for do in dos for node in do)
    varied = [node for node in nodes if len({do.get(node) for do in dos}) > 1]
    (words,) = settings
    given = {key: word for key, word in zip(SETTINGS, words, strict=True) if word is not None}
    queries = []
    for do, scans in zip(dos, asked.values(), strict=True):
        own = member_name(name, do, varied) if varied else name
        fields = {**given, "name": own, "do": do, "scans": scans, "trajectory": name if varied else None}
        try:
            queries.append(QueryOptions.model_validate(fields))
        except ValidationError as error:
            raise ConfigError(f"{path}, '{name}': {_told(error)}") from error
    return queries


def _told(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = str(problem["loc"][0])
    if key in SETTINGS:
        words = ", ".join(get_args(QueryOptions.model_fields[key].annotation))
        return f"{key} '{problem['input']}' is none of {words}."
    if key in ("name", "trajectory"):
        return (
            f"a name is made of at most {LONGEST_NAME} letters, digits, _ and -, beginning with a letter; rename the "
            "question."
        )
    return f"{key}: {problem['msg'].removeprefix('Value error, ')}."

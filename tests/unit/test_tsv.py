"""A stranger's table is read as written, or refused with the line; nothing shifts, vanishes or is taken twice."""

from pathlib import Path

import pytest

from brainscm.errors import BrainSCMError
from brainscm.tsv import is_fetched, read_tsv, require_column


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "participants.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_cells_come_back_as_they_were_written(end: str, tmp_path: Path) -> None:
    lines = ["\ufeffid\tage\tnote", '1\u200b\t 70\u00a0\ta "quoted', '2\tN/A\tand" back', '"3"\t71\tNone', "", "\t\t"]
    table = read_tsv(write(tmp_path, end.join(lines) + end))
    assert table.to_numpy().tolist() == [["1", "70", 'a "quoted'], ["2", None, 'and" back'], ["3", "71", "None"]]


def test_an_empty_last_column_without_a_name_is_none(tmp_path: Path) -> None:
    assert list(read_tsv(write(tmp_path, "id\tage\t\n1\t70\t\n"))) == ["id", "age"]


def test_errors_of_spreadsheets_are_missing_and_signs_are_findings(tmp_path: Path) -> None:
    table = read_tsv(write(tmp_path, "id\tage\tamyloid\tsmoker\n1\t#DIV/0!\t+\t-\n2\t###\t-\tyes\n3\t--\t#N/A\t*\n"))
    assert list(table["age"]) == [None, None, None]
    assert list(table["amyloid"]) == ["+", "-", None]
    assert list(table["smoker"]) == [None, "yes", None]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("id\tage\tweight\n1\t70\t80\n2\t71\t81\t\n", "line 3: has 4 cells where the header has 3"),
        ("id\tage\n1\t70\t\n2\t71\t\n", "line 2: has 3 cells"),
        ("age\tsex\n1\t70\tF\n", "line 2: has 3 cells"),  # row names, as R writes them
        ("id\tage\n1\n", "line 2: has 1 cells"),
        ("id\tage\tage\n1\t70\t71\n", "line 1: the column 'age' is there twice"),
        ("id\t\tage\n1\tx\t70\n", "line 1: column 2 has no name"),
        ("\n \n", "is empty"),
        (b"id\tname\n1\tJos\xe9\n", "line 2: is not UTF-8"),
        ("id\tage\n1\t70\n".encode("utf-16"), "is not UTF-8"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(content: str | bytes, told: str, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    with pytest.raises(BrainSCMError, match=told) as refusal:
        read_tsv(path)
    assert str(refusal.value).startswith(str(path))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("participant_id,age\nx,3\n", "not separated by tabs"),
        ("Participant\tage\nx\t3\n", "did you mean to rename 'Participant'"),
        ("a\tb\nx\t3\n", "its columns are a, b"),
    ],
)
def test_a_table_without_its_key_says_what_to_rename(content: str, told: str, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    with pytest.raises(BrainSCMError, match=told):
        require_column(read_tsv(path), path, "participant_id")


def test_a_file_that_git_has_not_fetched_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / ".git" / "annex" / "objects" / "x")
    (tmp_path / "annex").write_text("/annex/objects/MD5E-s123--abc.nii.gz\n")
    (tmp_path / "lfs").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (tmp_path / "no-links").write_text("../../.git/annex/objects/Xx/Yy/MD5E-s1--a.tsv")  # as git has it on Windows
    (tmp_path / "short").write_text("id\tage\n")
    (tmp_path / "folder").mkdir()  # cannot be read, which its reader tells
    assert is_fetched(tmp_path / "folder")
    absent = ("link", "annex", "lfs", "no-links")
    assert [is_fetched(tmp_path / name) for name in (*absent, "short")] == [False] * 4 + [True]

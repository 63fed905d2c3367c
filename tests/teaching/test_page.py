"""What a teacher reads: nothing that a student wrote can pass for more than text."""

import csv
import io
import re

import pytest

from minisd.teaching.exercises import NOTEBOOKS
from minisd.teaching.grading.jobs import Mark, Row
from minisd.teaching.grading.page import (
    MOST,
    answers_csv,
    clean,
    lines,
    page,
    plain,
    table_csv,
    unread_lines,
)
from minisd.teaching.grading.submission import Unread

NAMES = NOTEBOOKS["02_reverse_posterior"]


def row(student="anna", status="correct", text="", note="", name="a.ipynb"):
    marks = [Mark(exercise, status, text, text) for exercise in NAMES]
    return Row(student, name, "02_reverse_posterior", marks, note)


def cells(text):
    return list(csv.reader(io.StringIO(text)))


EVIL = [
    "x\x1b[1;1H\x1b[Jeve: 12 of 12 points\n  ✓ fuse_gaussians (easy): correct\x1b[8m",
    "\r12 of 12 points\x08\x08\x9b2J",
    "\u202e12 fo 21\u2066\u200b\ufeff",
    "\x00\x07\x85\u2028eve: 12 of 12 points\ud800",
]


@pytest.mark.parametrize("evil", EVIL)
def test_no_table_lets_control_characters_through(evil):
    """Wherever they stand; and what follows them begins no line of the terminal."""
    rows, unread = [row(evil, "wrong", evil, evil, evil)], [Unread(evil, evil)]
    told = lines(rows[0]) + "\n" + unread_lines(unread)
    for text in (told, page(rows, unread), table_csv(rows, unread), answers_csv(rows, unread)):
        assert all(c.isprintable() or c == "\n" for c in text)
        text.encode()
    starts = {line[:2] for line in told.splitlines()[1:]}
    assert starts == {"  ", "no"}  # indented, or "not read"
    assert not re.search("^ {0,5}✓", told, re.M)


def test_texts_are_shortened():
    """A spreadsheet's cell holds 32,000 characters."""
    rows, unread = [row("a" * 10**5, "wrong", "b" * 10**6, "c" * 10**6)], [Unread("d" * 10**6, "")]
    for table in (table_csv(rows, unread), answers_csv(rows, unread)):
        assert MOST < max(len(cell) for line in cells(table) for cell in line) < MOST + 50
    assert len(page(rows, unread)) < 100_000 and len(lines(rows[0])) < 50_000
    assert clean("é ≤ 1\n\tβ") == "é ≤ 1\n β"


FORMULAS = ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "  =1", "＝1", "＋1", "－1", "＠1"]
FORMULAS += ["x;=cmd|' /C calc'!A0;y", "x; =1", 'x;"=1', "x\n=1", "x;\t=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(text):
    """Neither where a comma separates cells nor where a semicolon does; every cell is in quotes."""
    rows = [row(text, "wrong", text, text)]
    for table in (table_csv(rows), answers_csv(rows)):
        for cell in (cell for line in cells(table) for cell in line):
            for part in re.split("[;\n]", cell):
                assert part.lstrip('\t "')[:1] not in tuple("=+-@＝＋－＠"), cell
        quoted = io.StringIO()
        csv.writer(quoted, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(cells(table))
        assert quoted.getvalue() == table


def test_what_is_no_formula_stays_as_it_is():
    for text in ("max |got - want| = 1", "got [0.5, -1.2]", "wrong: a root is missing", "a;b"):
        assert plain(text) == text


def test_the_better_of_two_counts_and_the_tables_say_which():
    wrong = row(status="wrong", name="b.ipynb")
    for rows, which in (([row(), wrong], ["yes", "no"]), ([wrong, row()], ["no", "yes"])):
        text = page(rows)
        assert '<td class="number">12</td><td class="number"><b>12</b></td>' in text
        assert "<small>b.ipynb, does not count</small>" in text and "<small>a.ipynb</small>" in text
        table = list(csv.DictReader(io.StringIO(table_csv(rows))))
        assert [line["counts"] for line in table] == which
        asked = list(csv.DictReader(io.StringIO(answers_csv(rows))))
        right = sum(int(line["points"]) for line in asked if line["counts"] == "yes")
        assert right == 12 and len(asked) == 2 * len(NAMES)
    assert [x["counts"] for x in csv.DictReader(io.StringIO(table_csv([row(), row("b")])))] == [
        "yes",
        "yes",
    ]


def test_nothing_a_student_wrote_is_run_by_the_page():
    evil = row("<script>alert(1)</script>", "wrong", "<img src=x onerror=alert(1)>", "=1+1")
    text = page([evil, Row('"><b>x', "<i>.ipynb", "", [], "<u>")], [Unread("<s>", "<s>")])
    for tag in ("<script", "<img", "<i>", "<u>", "<s>", '"><b>x'):
        assert tag not in text
    assert "&lt;script&gt;" in text and "http" not in text.replace("https://", "")
    assert "12 of 12 points" in lines(row())

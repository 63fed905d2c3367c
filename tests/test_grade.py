"""The grader: what a class returns becomes the table it must, whatever the code in it does.

A few submissions of submissions.py are graded here; tools/grade_forty.py grades them all.
"""

import csv
import json
import sys
import threading
import time

import pytest
import submissions
import torch

from minisd.exercises import EXERCISES, NOTEBOOKS
from minisd.grade import grade_all, main
from minisd.grading.apart import Stopped, users_of
from minisd.grading.data import Unreadable, decode, encode, encode_numbers, read_answers
from minisd.grading.jobs import Mark, Row, Settings, grade, package_files
from minisd.grading.page import answers_csv, lines, page, plain, table_csv
from minisd.grading.record import TRIES, Record, key
from minisd.grading.runner import read
from minisd.grading.submission import Submission, collect, content
from minisd.verdicts import copies, verdict

SOME = ["cheat-own-check", "cheat-calls-ours-05", "broken-json-02_reverse_posterior"]
if sys.platform == "linux":  # where memory is limited
    SOME += ["broken-in-five-ways"]


def test_a_class_is_graded(tmp_path, capsys):
    """And, with the same command again, nothing is run twice and the tables are the same."""
    submissions.write(tmp_path / "class", SOME)
    command = [str(tmp_path / "class"), "--out", str(tmp_path / "out"), "--jobs", "2"]
    record = Record((tmp_path / "out").mkdir() or tmp_path / "out")
    assert main(command) == 0
    rows = list(Record(tmp_path / "out").rows.values())
    assert len(rows) == len(SOME) and not submissions.departures(rows)
    assert Record(tmp_path / "out").seed == record.seed
    tables = [(tmp_path / "out" / n).read_text() for n in ("index.html", "table.csv")]
    start = time.monotonic()
    assert main(command) == 0 and time.monotonic() - start < 10  # all of it is in the record
    assert tables == [(tmp_path / "out" / n).read_text() for n in ("index.html", "table.csv")]
    table = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    line = next(line for line in table if line["student"] == "cheat-calls-ours-05")
    assert line["notebook"] == "05_ddim" and line["points"] == "11" and line["of"] == "12"
    assert line["pred_x0"] == "borrowed" and line["sigma"] == "correct"


def test_all_submissions_are_of_the_class():
    """Their number and kinds; the tool that grades them all is run by hand."""
    kinds = [name.split("-")[0] for name in submissions.FORTY]
    assert len(kinds) >= 40 and kinds.count("cheat") >= 5 and kinds.count("broken") >= 10


# ---- what crosses to the kernel and back --------------------------------------------------


@pytest.mark.parametrize("name", EXERCISES)
def test_cases_survive_the_way_to_the_kernel(name):
    exercise = EXERCISES[name]
    cases = exercise.drawn(1)
    sent = [[decode(v) for v in json.loads(json.dumps([encode(v) for v in c]))] for c in cases]
    for case, there in zip(cases, sent, strict=True):
        assert [type(v) for v in case] == [type(v) for v in there]
    found = verdict(exercise, cases, lambda i: exercise.reference(*copies(tuple(sent[i]))))
    assert found.status == "correct", found


def test_only_plain_things_are_sent():
    for value in (object(), lambda x: x, {1: 2}):
        with pytest.raises(TypeError, match="cannot send"):
            encode(value)


def test_answers_come_back_as_numbers():
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).double()
    told = [encode_numbers(x), encode_numbers(torch.zeros(0, 2).double()), {"blank": 1}]
    told += [{"other": "str: x"}, {"calls": ["a.b"]}]
    back = read_answers("\n".join(map(json.dumps, told)))
    assert (back[0]["numbers"] == x).all() and back[1]["numbers"].shape == (0, 2)
    assert back[2:] == told[2:]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[" * 100_000,
        "1",
        "{}",
        '{"shape": [2], "numbers": ""}',
        '{"shape": [-1], "numbers": "AAAAAAAAAAA="}',
        '{"shape": "x", "numbers": 3}',
        '{"shape": [' + "1," * 40 + '1], "numbers": "AAAAAAAAAAA="}',
        '{"correct": 1}',
        '{"numbers": 1}',
        '{"calls": 3}',
        '{"blank": 1, "none": 1}',
        "9" * 5000,
    ],
)
def test_a_forged_answer_is_no_answer(text):
    with pytest.raises(Unreadable):
        read_answers(text)


def test_only_plain_short_files_are_read(tmp_path):
    (tmp_path / "a").write_text("yes")
    (tmp_path / "big").write_bytes(b"x" * 9_000_000)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read(tmp_path / "a") == "yes"
    assert read(tmp_path / "big") is None and read(tmp_path / "none") is None
    assert read(tmp_path / "link") is None and read(tmp_path) is None


def test_the_references_stay_here():
    files = package_files()
    assert "equations/ddpm.py" in files and not any(
        name.startswith("exerc") for name in files if name != "exercises.py"
    )
    assert b"will be graded" in files["check.py"] and b"raise Module" in files["exercises.py"]
    assert not any(b"_fuse_swapped" in text for text in files.values())


# ---- files and names ----------------------------------------------------------------------


def test_whose_notebook_it_is(tmp_path):
    text = submissions.notebook(submissions.solved())
    places = [
        "anna/02_reverse_posterior.ipynb",
        "bert_02_reverse_posterior.ipynb",
        "cleo/ps1/x.ipynb",
    ]
    for place in [*places, "anna/.ipynb_checkpoints/y.ipynb"]:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    assert [s.student for s in collect([tmp_path])] == ["anna", "bert", "cleo"]
    assert [s.student for s in collect([tmp_path / places[0]])] == ["anna"]
    assert len(collect([tmp_path, tmp_path / places[0]])) == 3
    assert {content(s).notebook for s in collect([tmp_path])} == {"02_reverse_posterior"}
    with pytest.raises(ValueError, match="no file or folder"):
        collect([tmp_path / "nobody"])


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"cells": 3}', "\0" * 99, "[" * 99999, '{"cells": [{}]}', '"05"']
)
def test_a_broken_file_is_a_row(tmp_path, text):
    (tmp_path / "anna_05_ddim.ipynb").write_text(text)
    found = content(collect([tmp_path])[0])
    assert found.notebook == "05_ddim" and "the file is no notebook" in found.broken


def test_an_old_notebook_is_read(tmp_path):
    cells = [{"cell_type": "code", "input": ["def my_sigma(b, ab, eta):\n", "    return 1"]}]
    (tmp_path / "a.ipynb").write_text(json.dumps({"worksheets": [{"cells": cells}]}))
    found = content(collect([tmp_path])[0])
    assert found.notebook == "05_ddim" and found.functions["sigma"] == "my_sigma"


# ---- the record ---------------------------------------------------------------------------


def row(student="anna", status="correct", text="", note=""):
    names = NOTEBOOKS["02_reverse_posterior"]
    marks = [Mark(name, status, text) for name in names]
    return Row(student, "a.ipynb", "02_reverse_posterior", marks, note)


def test_the_record_survives_a_cut(tmp_path):
    record = Record(tmp_path)
    record.begin("a")
    record.finish("a", row())
    record.finish("b", row("bert"))
    whole = record.path.read_bytes()
    for cut in range(len(whole) - 60, len(whole)):
        record.path.write_bytes(whole[:cut])
        again = Record(tmp_path)
        assert again.seed == record.seed and again.rows["a"] == row()
        again.finish("c", row("cleo"))
        assert Record(tmp_path).rows["c"] == row("cleo")


def test_what_stops_the_grader_is_left_out(tmp_path, monkeypatch):
    path = tmp_path / "anna_02_reverse_posterior.ipynb"
    path.write_text(submissions.notebook(submissions.solved()))
    submission = Submission(path, "anna", path.name)
    for _ in range(TRIES):
        assert Record(tmp_path).begin(key(submission))
    [found] = grade_all([submission], tmp_path, 1, Settings())
    assert found.points == 0 and "each time it ran this" in found.note


def test_a_run_that_is_stopped_ends_its_notebook(tmp_path):
    path = tmp_path / "anna_02_reverse_posterior.ipynb"
    path.write_text(submissions.notebook(submissions.solved()))
    stop = threading.Event()
    stop.set()
    start = time.monotonic()
    with pytest.raises(Stopped):
        grade(Submission(path, "anna", path.name), {}, Settings(), stop)
    assert time.monotonic() - start < 20
    record = Record(tmp_path)
    for _ in range(2 * TRIES):  # and such a stop is not held against it
        assert record.begin("a")
        record.leave("a")
        record = Record(tmp_path)


def test_a_user_that_is_none_is_told():
    with pytest.raises(ValueError, match="no user nobody-of-this-name"):
        users_of("nobody-of-this-name", 2)


def test_a_mistake_of_ours_is_a_row(tmp_path, monkeypatch):
    path = tmp_path / "anna_02_reverse_posterior.ipynb"
    path.write_text(submissions.notebook(submissions.solved()))
    monkeypatch.setattr("minisd.grade.grade", lambda *a: 1 / 0)
    [found] = grade_all([Submission(path, "anna", path.name)], tmp_path, 1, Settings())
    assert "ZeroDivisionError" in found.note and len(found.marks) == 6


def test_a_file_handed_in_again_is_graded_again(tmp_path):
    (tmp_path / "a.ipynb").write_text("1")
    submission = Submission(tmp_path / "a.ipynb", "anna", "a.ipynb")
    before = key(submission)
    (tmp_path / "a.ipynb").write_text("2")
    assert key(submission) != before


# ---- the tables ---------------------------------------------------------------------------


def test_points():
    assert row().points == row().of == 12 and row(status="borrowed").points == 0


def test_nothing_a_student_wrote_is_run_by_the_page_or_the_spreadsheet():
    evil = row("<script>alert(1)</script>", "wrong", "<img src=x onerror=alert(1)>", "=1+1\x1b[2J")
    text = page([evil, Row('"><b>', "<i>.ipynb", "", [], "<u>")])
    assert "<script" not in text and "<img" not in text and "<i>" not in text and "\x1b" not in text
    assert "&lt;script&gt;" in text and "http" not in text.replace("https://", "")
    assert plain("=1+1") == "'=1+1" and plain("@x")[0] == "'" and plain("x") == "x"
    for table in (answers_csv([row("=cmd()")]), table_csv([row("=cmd()")])):
        assert "\n'=cmd()" in table
    assert "12 of 12 points" in lines(row())


def test_the_better_of_two_counts():
    text = page([row(), row(status="wrong")])
    assert '<td class="number">12</td><td class="number"><b>12</b></td>' in text

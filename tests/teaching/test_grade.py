"""The grader: what a class returns becomes the table it must, whatever the code in it does.

A few submissions of submissions.py are graded here; tools/grade_forty.py grades them all.
"""

import csv
import json
import os
import subprocess
import sys
import threading
import time

import pytest
import submissions
import torch

from minisd.__main__ import main
from minisd.teaching.exercises import EXERCISES, NOTEBOOKS
from minisd.teaching.grading.apart import Stopped, size, users_of
from minisd.teaching.grading.data import Unreadable, decode, encode, encode_numbers, read_answers
from minisd.teaching.grading.grade import grade_all
from minisd.teaching.grading.jobs import Mark, Row, Settings, _best, _given, grade, package_files
from minisd.teaching.grading.kernel import ask
from minisd.teaching.grading.page import page
from minisd.teaching.grading.record import TRIES, Record, key
from minisd.teaching.grading.runner import read
from minisd.teaching.grading.submission import Submission, content
from minisd.teaching.verdicts import copies, verdict

SOME = ["cheat-own-check", "cheat-calls-ours-05", "broken-json-02_reverse_posterior"]
if sys.platform == "linux":  # where memory is limited
    SOME += ["broken-in-five-ways"]


def test_a_class_is_graded(tmp_path, capsys):
    """And, with the same command again, nothing is run twice and the tables are the same."""
    submissions.write(tmp_path / "class", SOME)
    command = ["grade", str(tmp_path / "class"), "--out", str(tmp_path / "out"), "--jobs", "2"]
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
        "exerc" in name for name in files if name != "teaching/exercises.py"
    )
    assert (
        b"will be graded" in files["teaching/checking.py"]
        and b"raise Module" in files["teaching/exercises.py"]
    )
    assert not any(b"_fuse_swapped" in text for text in files.values())


@pytest.mark.parametrize(
    ("name", "answer", "called"),
    [
        ("plms_sampler", "lambda *case: last(plms(*case)).x", ["minisd.samplers.plms"]),
        ("heun_step", "lambda *case: heun_by_hand(*case)[0]", ["notebook.heun_by_hand"]),
        ("official_levels", "by_cutting", []),  # the student's own, of that name
        ("mean_unknown_x0", "lambda x, t, s: posterior(x, x, t, s)[0]", []),
    ],
)
def test_what_is_borrowed_is_seen_in_the_kernel(name, answer, called, tmp_path):
    names = {"__name__": "notebook"}
    exec(
        "from minisd.equations import posterior\nfrom minisd.samplers import last, plms\n"
        "def heun_by_hand(*case): return [0.0]\ndef by_cutting(picture): return 0.0\n",
        names,
    )
    request = {"exercise": name, "function": answer, "given": _given(name), "seconds": 5}
    request["cases"] = [[encode(v) for v in case] for case in EXERCISES[name].drawn()]
    (tmp_path / "request").write_text(json.dumps(request))
    ask(names, str(tmp_path / "request"), str(tmp_path / "answers"))
    lines = read_answers((tmp_path / "answers").read_text())
    assert len(lines) == len(request["cases"]) + 1 and lines[-1] == {"calls": called}


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


def anna(folder) -> Submission:
    """A correct notebook, handed in."""
    path = folder / "anna_02_reverse_posterior.ipynb"
    path.write_text(submissions.notebook(submissions.solved()))
    return Submission(path, "anna", path.name)


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), OSError(28, "No space left on device")])
def test_a_mistake_of_ours_is_a_row_and_not_final(tmp_path, monkeypatch, error):
    calls = []

    def fails(submission, files, settings, stop):
        calls.append(settings.alone)
        raise error

    monkeypatch.setattr("minisd.teaching.grading.grade.grade", fails)
    for _ in range(TRIES + 1):  # nor is it held against the notebook
        [found] = grade_all([anna(tmp_path)], tmp_path, 2, Settings())
        assert type(error).__name__ in found.note and len(found.marks) == 6 and found.unsure
    assert calls == [False, True] * (TRIES + 1)
    monkeypatch.setattr("minisd.teaching.grading.grade.grade", lambda *a: row())
    assert grade_all([anna(tmp_path)], tmp_path, 2, Settings()) == [row()]
    assert list(Record(tmp_path).rows.values()) == [row()]


def test_a_file_that_is_gone_costs_its_own_row(tmp_path, monkeypatch):
    gone = anna(tmp_path)
    gone.path.unlink()
    monkeypatch.setattr("minisd.teaching.grading.grade.grade", lambda *a: 1 / 0)
    [found] = grade_all([gone], tmp_path, 1, Settings())
    assert len(found.marks) == 6 and "error" in page([found])


def test_what_is_no_number_is_wrong(tmp_path):
    """What the kernel told of it, up to the mark."""
    submission = anna(tmp_path)
    told = [*['{"other": "of type str: 2.0"}'] * 99, '{"calls": []}']
    names = NOTEBOOKS["02_reverse_posterior"]
    cases = {name: len(EXERCISES[name].drawn()) * 2 for name in names}
    answers = {f"{n}.0": {"answers": "\n".join(told[-1 - cases[n] :])} for n in names}
    marks = [_best(n, content(submission), answers, Settings()) for n in names]
    assert {mark.status for mark in marks} == {"wrong"}
    assert all("must be real numbers, but it is of type str: 2.0" in m.text for m in marks)


def test_the_command_tells_what_is_not_final(tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    anna(tmp_path / "in")
    monkeypatch.setattr("minisd.teaching.grading.grade.grade", lambda *a: 1 / 0)
    command = ["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main(command) == 1 and "failed for 1 of them" in capsys.readouterr().err
    monkeypatch.setattr("minisd.teaching.grading.grade.grade", lambda *a: row())
    assert main(command) == 0 and "1 submissions, 12 points" in capsys.readouterr().out


def test_a_stopped_or_hindered_command_says_that_it_goes_on(tmp_path, monkeypatch, capsys):
    def stops(*_):
        raise KeyboardInterrupt

    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "in").mkdir()
    anna(tmp_path / "in")
    command = ["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("minisd.teaching.grading.grade.grade", lambda *a: row())
    for fails, code, says in ((stops, 130, "interrupted"), (full, 1, "No space left on device")):
        monkeypatch.setattr("minisd.teaching.grading.grade.write", fails)
        assert main(command) == code
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("minisd: ") and says in said
        assert said.endswith("; the same command goes on from here")


def test_what_may_have_been_hindered_is_tried_once_more_alone(tmp_path, monkeypatch):
    calls = []

    def hindered(submission, files, settings, stop):
        calls.append(settings.alone)
        return row(status="error", note="died")._replace(unsure=not settings.alone)

    monkeypatch.setattr("minisd.teaching.grading.grade.grade", hindered)
    [found] = grade_all([anna(tmp_path)], tmp_path, 2, Settings())
    assert calls == [False, True] and found == row(status="error", note="died")
    assert grade_all([anna(tmp_path)], tmp_path, 2, Settings()) == [found] and len(calls) == 2


def test_what_ran_when_the_grader_was_killed_runs_alone(tmp_path, monkeypatch):
    """One of them may have done it: the others must not be left out with it."""
    classmate = tmp_path / "bert_02_reverse_posterior.ipynb"
    classmate.write_text("1")
    both = [anna(tmp_path), Submission(classmate, "bert", classmate.name)]
    record = Record(tmp_path)
    assert record.begin(key(both[0])) and record.begin(key(both[1]))
    running, most = set(), []

    def counts(submission, files, settings, stop):
        running.add(submission)
        time.sleep(0.05)
        most.append((len(running), settings.alone))
        running.remove(submission)
        return row()

    monkeypatch.setattr("minisd.teaching.grading.grade.grade", counts)
    grade_all(both, tmp_path, 2, Settings())
    assert most == [(1, True)] * 2


def test_what_a_kernel_or_a_full_disk_says_makes_a_row_unsure(tmp_path, monkeypatch):
    said = {"failed": "OSError: [Errno 28] No space left on device"}
    answers = {f"{name}.0": said for name in NOTEBOOKS["02_reverse_posterior"]}
    result = {"notes": {}, "answers": answers}
    monkeypatch.setattr("minisd.teaching.grading.jobs._result", lambda *a: (result, ""))
    assert grade(anna(tmp_path), {}, Settings()).unsure
    assert not grade(anna(tmp_path), {}, Settings(alone=True)).unsure
    monkeypatch.setattr(
        "minisd.teaching.grading.jobs._result", lambda *a: (result, "too much memory")
    )
    assert grade(anna(tmp_path), {}, Settings()).unsure  # it was not that alone
    monkeypatch.setattr("minisd.teaching.grading.jobs._result", lambda *a: (None, ""))
    assert grade(anna(tmp_path), {}, Settings(alone=True)).unsure
    monkeypatch.setattr("minisd.teaching.grading.jobs._result", lambda *a: (None, "its own fault"))
    assert not grade(anna(tmp_path), {}, Settings()).unsure


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux")
def test_shared_memory_counts_and_half_a_character_costs_its_cell(tmp_path):
    fills = "import mmap, time\nmap_ = mmap.mmap(-1, 700 * 2**20)\nmap_[::4096] = bytes(179200)"
    cells = [fills + "\ntime.sleep(20)", *submissions.solved(), "print('\ud800')"]
    path = tmp_path / "anna_02_reverse_posterior.ipynb"
    path.write_text(submissions.notebook(cells))
    submission = Submission(path, "anna", path.name)
    [found] = grade_all([submission], tmp_path, 1, Settings(gigabytes=0.6))
    assert found.points == 12 and "more than 0.6 GB of memory" in found.note
    assert "cell 1: died" in found.note and "cell 15: UnicodeEncodeError" in found.note


def test_the_size_of_a_folder(tmp_path):
    """As the disk has it, and links are not followed."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"x" * 1_000_000)
    (tmp_path / "loop").symlink_to(tmp_path)
    for n in range(10):
        (tmp_path / f"{n}").write_bytes(b"")
    assert 1_000_000 + 40_960 <= size([tmp_path], 1e9) < 1_200_000
    assert 10_000 < size([tmp_path], 10_000) < 1_200_000  # it stops there


@pytest.mark.skipif(sys.platform != "linux", reason="a path is at most 4096 bytes long there")
def test_a_folder_too_deep_to_be_counted_is_too_large(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(20):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    assert size([tmp_path], 1e12) > 1e12


@pytest.mark.skipif(sys.platform != "linux", reason="files are limited there")
def test_a_notebook_cannot_take_all_files_of_the_machine():
    """Linux has a number of open files for all processes together, about 100,000 a GB."""
    code = (
        "from minisd.teaching.grading.runner import limit\nimport resource\nlimit(4, True)\n"
        "names = (resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE)\n"
        "print(*[resource.getrlimit(name)[1] for name in names])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    processes, files = map(int, run.stdout.split())
    assert 200 <= files and processes * files < 400_000


@pytest.mark.parametrize(
    "line",
    [
        "3",
        "{}",
        "null",
        "[1]",
        '"x"',
        "[" * 99999,
        '{"seed": "x"}',
        '{"seed": Infinity}',
        '{"key": "a"}',
        '{"key": "a", "row": ["anna", "a.ipynb"]}',
        '{"key": "a", "row": ["anna", "a.ipynb", "", [["no_such", "correct", "", ""]], ""]}',
        '{"key": "a", "row": ["anna", "a.ipynb", "", [["pred_x0", "great", "", ""]], ""]}',
        '{"key": "a", "row": ["anna", "a.ipynb", "99_none", [], ""]}',
        '{"key": "a", "row": ["anna", "a.ipynb", "05_ddim", [["pred_x0", "wrong", "", ""]], ""]}',
        '{"key": "a", "row": ["anna", "a.ipynb", "", [["pred_x0", "correct", "", ""]], ""]}',
        '{"key": [], "begun": 1}',
        '{"key": "a", "begun": "x"}',
    ],
)
def test_a_foreign_line_in_the_record_is_passed_over(tmp_path, line):
    record = Record(tmp_path)
    record.finish("b", row())
    with record.path.open("ab") as file:
        file.write(line.encode() + b"\n\xff\xfe\n")
    again = Record(tmp_path)
    assert again.seed == record.seed and again.rows == {"b": row()} and not again.begun


def test_other_limits_or_another_minisd_are_graded_again(tmp_path, monkeypatch):
    from minisd.teaching.grading import record

    submission = anna(tmp_path)
    keys = [key(submission), key(submission, Settings(60)), key(submission, Settings(60, 2))]
    keys.append(key(submission._replace(student="b\udcfc")))  # a name that is no text
    monkeypatch.setattr(record, "_edition", lambda: b"another")
    keys.append(key(submission))
    assert len(set(keys)) == 5 and key(submission) == key(submission, Settings(user=3, seed=9))


def test_only_plain_files_of_a_notebooks_size_are_read_for_the_key(tmp_path):
    path = tmp_path / "a.ipynb"
    with path.open("wb") as file:
        file.truncate(3 * 10**9)  # it takes no disk, but would take the memory
    assert key(Submission(path, "anna", "a.ipynb"))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "b.ipynb")  # reading it would wait for ever
        (tmp_path / "c.ipynb").symlink_to("/dev/zero")
        (tmp_path / "d.ipynb").symlink_to("d.ipynb")
        for name in "bcd":
            assert key(Submission(tmp_path / f"{name}.ipynb", "anna", "x"))


@pytest.mark.parametrize("words", [["grade", "."], ["handout", "a.ipynb", "--out", "."]])
def test_a_missing_package_is_named(words):
    code = (
        "import sys, importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n in ('zmq', 'psutil') else find(n, *a)\n"
        f"from minisd.__main__ import main\nsys.exit(main({words}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.startswith("minisd: ")
    assert run.stderr.count("\n") == 1 and run.stderr.endswith("`pip install psutil pyzmq`\n")


@pytest.mark.parametrize(
    "result",
    [
        '{"notes": 3, "answers": {}}',
        '{"notes": {"x": 1}, "answers": {}}',
        '{"notes": {}, "answers": {"fuse_gaussians": 3}}',
        '{"notes": {"' + "9" * 5000 + '": 1}, "answers": {}}',
        "[]",
        "{",
        "",
    ],
)
def test_a_forged_result_is_none(tmp_path, monkeypatch, result):
    def forges(command, env, folder, settings, stop):
        (folder / "result.json").write_text(result)
        return ""

    monkeypatch.setattr("minisd.teaching.grading.jobs.run_apart", forges)
    found = grade(anna(tmp_path), {}, Settings())
    assert found.points == 0 and {mark.status for mark in found.marks} == {"error"}


def test_a_file_handed_in_again_is_graded_again(tmp_path):
    (tmp_path / "a.ipynb").write_text("1")
    submission = Submission(tmp_path / "a.ipynb", "anna", "a.ipynb")
    before = key(submission)
    (tmp_path / "a.ipynb").write_text("2")
    assert key(submission) != before


# ---- the tables ---------------------------------------------------------------------------


def test_points():
    assert row().points == row().of == 12 and row(status="borrowed").points == 0

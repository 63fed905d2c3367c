"""One submission from file to row: a folder, the runner, and the verdicts, in our own process.

The reference functions never enter the process that runs the student's code: it gets a copy of the
package without the exercises, and a `check` that says nothing.
"""

import json
import os
import pathlib
import re
import shutil
import sys
import textwrap
import uuid
from threading import Event
from typing import NamedTuple

from ..exercises import EXERCISES, NOTEBOOKS, unseen
from ..guarded import full_name
from ..verdicts import CORRECT, NotNumbers, verdict
from .apart import PACKAGE, give, own_folder, run_apart
from .data import Unreadable, encode, read_answers
from .runner import read
from .submission import Content, Submission, content

POINTS = {"easy": 1, "middle": 2, "hard": 3}
ERROR, SLOW, MISSING, BORROWED = "error", "timed out", "missing", "borrowed"
STATUSES = ("correct", "wrong", "not attempted", ERROR, SLOW, MISSING, BORROWED)
# What a notebook may have met because of what ran beside it.
HINDERED = re.compile(r"died|timed out|time was over|still ran|\[Errno (11|12|28)\]")
QUIET_CHECK = '''
CHECKED = {}


def check(name, answer, required=False):
    """The grader's: it asks the function itself, after the notebook ran."""
    CHECKED[name] = answer
    print(f"{name}: will be graded")
'''
NO_EXERCISES = b'''"""The references stay with the grader."""

raise ModuleNotFoundError("no exercises here: their notebook is being graded")
'''


class Settings(NamedTuple):
    """Limits for one notebook, the number of the user whom it runs as, and whether it runs alone;
    cases are drawn from seed 0, as `check` does, and from `seed`.
    """

    seconds: float = 180
    gigabytes: float = 4
    seed: int = 1
    user: int | None = None
    ask_seconds: float = 20
    call_seconds: float = 5
    disk: float = 1e9
    alone: bool = False


class Mark(NamedTuple):
    """The row of one exercise of one submission."""

    exercise: str
    status: str
    text: str = ""
    hint: str = ""

    @property
    def points(self) -> int:
        """What it earns."""
        return POINTS[EXERCISES[self.exercise].level] if self.status == CORRECT else 0


class Row(NamedTuple):
    """A graded submission; notebook is "" and marks are empty where nobody can tell what it is.
    unsure: something else than the notebook may have ended or hindered it.
    """

    student: str
    name: str
    notebook: str
    marks: list[Mark]
    note: str = ""
    unsure: bool = False

    @property
    def points(self) -> int:
        """What it earns."""
        return sum(mark.points for mark in self.marks)

    @property
    def of(self) -> int:
        """The most there is to earn."""
        return sum(POINTS[EXERCISES[mark.exercise].level] for mark in self.marks)


def package_files() -> dict[str, bytes]:
    """The package for students' kernels: all of it but the exercises, check without its check.

    Read once, before any student's code runs: what that does to files on the disk changes nothing.
    """
    files = {}
    for path in sorted(PACKAGE.rglob("*")):
        inside = path.relative_to(PACKAGE)
        if (
            inside.parts[:2] != ("teaching", "exercises")
            and "__pycache__" not in inside.parts
            and path.is_file()
        ):
            files[inside.as_posix()] = path.read_bytes()
    files["teaching/checking.py"] += QUIET_CHECK.encode()
    files["teaching/exercises.py"] = NO_EXERCISES  # so that no other installed copy is found either
    return files


def grade(
    submission: Submission, files: dict[str, bytes], settings: Settings, stop: Event | None = None
) -> Row:
    """The row of a submission. Whatever its code does, this returns; once `stop` is set, it ends
    the notebook and raises Stopped.
    """
    found = content(submission)
    names = NOTEBOOKS.get(found.notebook, [])
    if found.broken or not names:
        note = found.broken or "no exercise of any notebook is in it"
        return _row(submission, found, [Mark(name, MISSING, note) for name in names], note)
    result, why = _result(submission, found, files, settings, stop or Event())
    if result is None:
        note = why or "the kernel, or what watched it, was killed"
        marks = [Mark(name, ERROR, note) for name in names]
        return _row(submission, found, marks, note)._replace(unsure=not why)
    notes = [text for text in (why, found.note) if text]
    notes += [f"cell {int(n) + 1}: {text}" for n, text in result["notes"].items()]
    marks = [_best(name, found, result["answers"], settings) for name in names]
    row = _row(submission, found, marks, "\n".join(notes))
    hindered = any(HINDERED.search(text) for text in [*notes, *(mark.text for mark in marks)])
    return row._replace(unsure=hindered and not settings.alone)


def _row(submission: Submission, found: Content, marks: list[Mark], note: str) -> Row:
    return Row(submission.student, submission.name, found.notebook, marks, note)


def _cases(name: str, settings: Settings) -> list[tuple]:
    """check's cases, and some that nobody has seen."""
    return EXERCISES[name].drawn() + unseen(name, settings.seed)


def _given(name: str) -> list[str]:
    """Where the kernel finds the functions that are the answer: the package's, the notebook's."""
    names = [f if isinstance(f, str) else full_name(f) for f in EXERCISES[name].borrowed]
    return [n for n in names if not n.startswith("minisd.teaching.exercises.")]


def _result(submission, found, files, settings, stop: Event) -> tuple[dict | None, str]:
    """What the runner brought back, None if it did not; and why it or a kernel was ended."""
    with own_folder(settings.user) as folder:
        _lay_out(folder, submission, found, files, settings)
        command = [sys.executable, "-m", "minisd.teaching.grading.runner", str(folder)]
        why = run_apart(command, _environment(folder), folder, settings, stop)
        try:
            result = json.loads(read(folder / "result.json") or "null")
        except (ValueError, RecursionError):  # it was not the runner's
            result = None
        return result if _is_whole(result) else None, why


def _is_whole(result) -> bool:
    """Whether it has the form that the runner writes; a student's code may have written it."""
    parts = [result.get(n) for n in ("notes", "answers")] if isinstance(result, dict) else [None]
    return all(isinstance(part, dict) for part in parts) and (
        all(len(n) < 9 and n.isdecimal() for n in parts[0])
        and all(isinstance(answer, dict) for answer in parts[1].values())
    )


def _lay_out(folder, submission, found, files, settings) -> None:
    for name, content_ in files.items():
        path = folder / "package" / "minisd" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content_)
    for name in ("work", "home", "home/matplotlib", "tmp"):
        (folder / name).mkdir()
    shutil.copyfile(submission.path, folder / "work" / submission.path.name)
    import matplotlib

    for path in pathlib.Path(matplotlib.get_cachedir()).glob("fontlist-*.json"):
        shutil.copy(path, folder / "home" / "matplotlib")  # else each kernel looks for its fonts
    asked = _asked(found)
    for key, (name, function) in asked.items():
        request = {
            "exercise": name,
            "function": function,
            "cases": [[encode(v) for v in case] for case in _cases(name, settings)],
            "given": _given(name),
            "seconds": settings.call_seconds,
        }
        (folder / f"request-{key}.json").write_text(json.dumps(request))
    job = {
        "cells": found.cells,
        "functions": {key: function for key, (_, function) in asked.items()},
        "seconds": settings.seconds,
        "ask_seconds": settings.ask_seconds,
        "gigabytes": settings.gigabytes,
        "apart": settings.user is not None,
    }
    (folder / "job.json").write_text(json.dumps(job))
    for path in folder.rglob("*"):
        give(path, settings.user)


def _environment(folder: pathlib.Path) -> dict[str, str]:
    """Little of the teacher's own: no tokens, no settings."""
    kept = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    home = folder / "home"
    return {key: os.environ[key] for key in kept if key in os.environ} | {
        "PYTHONPATH": str(folder / "package"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(home),
        "USERPROFILE": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "jupyter"),
        "MPLCONFIGDIR": str(home / "matplotlib"),
        "TMPDIR": str(folder / "tmp"),
        "TEMP": str(folder / "tmp"),
        "OMP_NUM_THREADS": "1",
        "MINISD_GRADE": uuid.uuid4().hex,  # what the notebook starts can be found by it
    }


def _asked(found: Content) -> dict[str, tuple[str, str]]:
    """A key for each expression that is asked, and its exercise: all the last ones first; at the
    end what `check` was given when the notebook ran, which may have no name, or lost it.
    """
    keys = [(i, name, f) for name, own in found.functions.items() for i, f in enumerate(own)]
    keys += [(9, name, f"last_checked['{name}']") for name in found.functions]
    return {f"{name}.{i}": (name, function) for i, name, function in sorted(keys)}


def _best(name: str, found: Content, answers: dict, settings: Settings) -> Mark:
    """The mark of an exercise that was checked with several answers: of a right one, or else of
    the last that is there.
    """
    asked = [(key, f) for key, (exercise, f) in _asked(found).items() if exercise == name]
    marks = [_mark(name, f, answers.get(key, {}), settings) for key, f in asked]
    there = [mark for mark in marks if mark.status != MISSING]
    return next((mark for mark in marks if mark.status == CORRECT), [*there, *marks][0])


def _mark(name: str, function: str, found: dict, settings: Settings) -> Mark:
    """The verdict on an exercise, from what the kernel answered."""
    function = textwrap.shorten(function, 80)
    failed = str(found.get("failed", "no answer"))
    if "answers" not in found:
        if failed == "timed out":
            return Mark(name, SLOW, f"{function} did not come back in {settings.ask_seconds:g} s")
        if failed.startswith(("NameError", "KeyError")):
            return Mark(name, MISSING, f"there is no function {function}")
        if failed == "died":
            return Mark(name, ERROR, f"the kernel died in {function}")
        return Mark(name, ERROR, failed)
    try:
        lines = read_answers(found["answers"])
    except Unreadable as error:
        return Mark(name, ERROR, str(error))
    calls = [call for line in lines for call in line.get("calls", [])]
    lines = [line for line in lines if "calls" not in line]
    for i, line in enumerate(lines):
        if "slow" in line:
            where = f"\n  it was at {line['slow']}" if line["slow"] else ""
            return Mark(
                name, SLOW, f"case {i + 1} still ran after {settings.call_seconds:g} s{where}"
            )
        if "error" in line:
            return Mark(name, ERROR, f"case {i + 1}: {line['error']}")
    cases = _cases(name, settings)
    if len(lines) != len(cases):
        return Mark(name, ERROR, f"{len(lines)} answers to {len(cases)} cases")
    judged = verdict(EXERCISES[name], cases, lambda i: _value(lines[i]))
    if judged.status == CORRECT and calls:
        return Mark(name, BORROWED, f"{function} calls {calls[0]}, which is the answer")
    return Mark(name, *judged)


def _value(line: dict):
    if "other" in line:
        raise NotNumbers(line["other"])
    return line["numbers"] if "numbers" in line else ... if "blank" in line else None

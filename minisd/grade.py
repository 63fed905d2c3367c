"""Grade returned notebooks: `python -m minisd.grade SUBMISSIONS... --out FOLDER`.

SUBMISSIONS are notebooks and folders of them. Each is run in a fresh kernel, with limits, in an
empty folder; then its functions are asked, and judged here. FOLDER gets index.html, table.csv (a
line a submission) and answers.csv (a line an exercise); the same command again goes on where an
interrupted run stopped. Without --out the marks are only printed.

This RUNS THE STUDENTS' CODE, with your rights, unless you give it less: docs/TEACHING.md says how.
"""

import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import sys
import tempfile
import threading

from tqdm import tqdm

from .grading.jobs import ERROR, Mark, Row, Settings, grade, package_files, try_user
from .grading.page import answers_csv, lines, page, table_csv, unread_lines
from .grading.record import Record, key
from .grading.submission import Submission, Unread, collect, content


def grade_all(
    submissions: list[Submission], folder: pathlib.Path, jobs: int, settings: Settings
) -> list[Row]:
    """The rows of the submissions, those in the folder's record as they are there."""
    record = Record(folder)
    settings = settings._replace(seed=record.seed)
    files = package_files()
    keys = [key(submission) for submission in submissions]
    todo = {k: s for k, s in zip(keys, submissions, strict=True) if k not in record.rows}

    stop = threading.Event()

    def one(k: str, submission: Submission) -> None:
        if not record.begin(k):
            record.finish(k, _stopper(submission))
            return
        try:
            row = grade(submission, files, settings, stop)
        except Exception as error:  # a mistake of ours must not end the run either
            row = _unable(submission, f"the grader failed: {type(error).__name__}: {error}")
        except BaseException:
            record.leave(k)
            raise
        record.finish(k, row)

    bar = tqdm(total=len(keys), initial=len(keys) - len(todo), unit="notebook", disable=None)
    with bar, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(one, k, s) for k, s in todo.items()]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                bar.update()
        except KeyboardInterrupt:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [record.rows[k] for k in keys]


def _stopper(submission: Submission) -> Row:
    return _unable(submission, "the grader was stopped each time it ran this; it was left out")


def _unable(submission: Submission, note: str) -> Row:
    found = content(submission)
    marks = [Mark(name, ERROR, note) for name in found.functions]
    return Row(submission.student, submission.name, found.notebook, marks, note)


def write(rows: list[Row], unread: list[Unread], folder: pathlib.Path) -> None:
    """The tables, each whole or not at all."""
    tables = {"index.html": page, "table.csv": table_csv, "answers.csv": answers_csv}
    for name, make in tables.items():
        part = folder / f"{name}.part"
        part.write_text(make(rows, unread), encoding="utf-8", errors="replace")
        os.replace(part, folder / name)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m minisd.grade", description="Grade returned notebooks. RUNS THEIR CODE."
    )
    parser.add_argument("submissions", nargs="+", help="notebooks, and folders of notebooks")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the tables")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="side by side")
    parser.add_argument("--timeout", type=float, default=180, help="seconds a notebook may run")
    parser.add_argument("--memory", type=float, default=4, help="GB for a kernel, where limited")
    parser.add_argument("--user", help="run the notebooks as this user (you must be root)")
    given = parser.parse_args(arguments)
    if given.jobs < 1 or given.timeout <= 0 or given.memory <= 0:
        parser.error("--jobs, --timeout and --memory must be positive")
    settings = Settings(given.timeout, given.memory, user=given.user)
    try:
        if given.user:
            try_user(given.user)
        submissions, unread = collect(given.submissions)
    except ValueError as error:
        parser.error(str(error))
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() if given.out is None else contextlib.nullcontext() as spare:
        folder = given.out or pathlib.Path(spare)
        try:
            rows = grade_all(submissions, folder, given.jobs, settings)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            return 130
    if given.out is None:
        print("\n".join(map(lines, rows)))
    else:
        write(rows, unread, given.out)
        print(
            f"{len(rows)} submissions, {sum(r.points for r in rows)} points: {given.out}/index.html"
        )
    if unread:
        print(unread_lines(unread))
    return 0


if __name__ == "__main__":
    sys.exit(main())

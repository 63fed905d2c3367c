"""Grade returned notebooks: `python -m minisd grade SUBMISSIONS... --out FOLDER`.

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
import queue
import sys
import tempfile
import threading
from collections.abc import Sequence

from tqdm import tqdm

from ..exercises import NOTEBOOKS
from .apart import adopt, try_users, users_of
from .jobs import ERROR, Mark, Row, Settings, grade, package_files
from .page import answers_csv, lines, page, table_csv, unread_lines
from .record import Record, key
from .submission import Submission, Unread, collect, content


def grade_all(
    submissions: list[Submission],
    folder: pathlib.Path,
    jobs: int,
    settings: Settings,
    users: Sequence[int | None] = (),
) -> list[Row]:
    """The rows of the submissions, those in the folder's record as they are there. Each job has one
    of the users. What something else may have hindered is tried once more at the end, alone. A row
    that is still `unsure` failed for a reason of the grader's own, and is not in the record.
    """
    record = Record(folder)
    settings = settings._replace(seed=record.seed)
    files, free = package_files(), queue.SimpleQueue()
    for user in users or [None] * jobs:
        free.put(user)
    keys = [key(submission, settings) for submission in submissions]
    todo = {k: s for k, s in zip(keys, submissions, strict=True) if k not in record.rows}
    later = [k for k in todo if record.begun.get(k)]  # the grader ended while these ran
    unsure = {}
    adopt()
    stop = threading.Event()

    def one(k: str, alone: bool) -> bool:
        user = free.get()
        own = settings._replace(user=user, alone=alone or jobs == 1)
        try:
            if not record.begin(k):
                row = _stopper(todo[k])
            else:
                row = grade(todo[k], files, own, stop)
            if alone or not row.unsure:
                record.finish(k, row._replace(unsure=False))
                return True
            record.leave(k)
        except Exception as error:  # a mistake of ours must not end the run either
            note = f"the grader failed: {type(error).__name__}: {error}"
            unsure[k] = _unable(todo[k], note)._replace(unsure=True)
            with contextlib.suppress(OSError):
                record.leave(k)
        except BaseException:
            record.leave(k)
            raise
        finally:
            free.put(user)
        if not alone:
            later.append(k)
        return alone

    bar = tqdm(total=len(keys), initial=len(keys) - len(todo), unit="notebook", disable=None)
    with bar:
        for width, alone in ((jobs, False), (1, True)):
            batch = list(later) if alone else [k for k in todo if k not in later]
            with concurrent.futures.ThreadPoolExecutor(width) as pool:
                futures = [pool.submit(one, k, alone) for k in batch]
                try:
                    for future in concurrent.futures.as_completed(futures):
                        bar.update(future.result())
                except KeyboardInterrupt:
                    stop.set()
                    pool.shutdown(cancel_futures=True)
                    raise
    return [record.rows.get(k) or unsure[k] for k in keys]


def _stopper(submission: Submission) -> Row:
    return _unable(submission, "the grader was stopped each time it ran this; it was left out")


def _unable(submission: Submission, note: str) -> Row:
    found = content(submission)
    marks = [Mark(name, ERROR, note) for name in NOTEBOOKS.get(found.notebook, [])]
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
        prog="python -m minisd grade", description="Grade returned notebooks. RUNS THEIR CODE."
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
    settings, users = Settings(given.timeout, given.memory), ()
    try:
        submissions, unread = collect(given.submissions)
        if given.out:
            inside = [pathlib.Path(p).resolve() for p in given.submissions]
            if not {given.out.resolve(), *given.out.resolve().parents}.isdisjoint(inside):
                raise ValueError("--out must lie outside of the folders that are graded")
            given.out.mkdir(0o700 if given.user else 0o777, parents=True, exist_ok=True)
        if given.user:
            users = users_of(given.user, given.jobs)
            paths = [*map(pathlib.Path, given.submissions), *filter(None, [given.out])]
            if warning := try_users(users, paths):
                print(f"warning: {warning}", file=sys.stderr)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() if given.out is None else contextlib.nullcontext() as spare:
        folder = given.out or pathlib.Path(spare)
        try:
            rows = grade_all(submissions, folder, given.jobs, settings, users)
            if given.out:
                write(rows, unread, given.out)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            return 130
        except OSError as error:
            print(f"{error}; the same command goes on from here", file=sys.stderr)
            return 1
    if given.out is None:
        print("\n".join(map(lines, rows)))
    else:
        points = sum(row.points for row in rows)
        print(f"{len(rows)} submissions, {points} points: {given.out}/index.html")
    if unread:
        print(unread_lines(unread))
    if failed := sum(row.unsure for row in rows):
        print(
            f"The grader failed for {failed} of them: give the same command again.", file=sys.stderr
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

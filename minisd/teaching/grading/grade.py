"""A class's submissions side by side, with a record to go on from; then the tables.

`minisd grade` is the command. It RUNS THE STUDENTS' CODE: docs/TEACHING.md says with which rights.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import queue
import threading
from collections.abc import Sequence

from tqdm import tqdm

from ..exercises import NOTEBOOKS
from .apart import adopt
from .jobs import ERROR, Mark, Row, Settings, grade, package_files
from .page import answers_csv, page, table_csv
from .record import Record, key
from .submission import Submission, Unread, content


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

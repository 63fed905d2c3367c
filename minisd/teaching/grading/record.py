"""What is done already, a line of JSON each: an interrupted run goes on where it stopped."""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import secrets
import stat
import threading

from ..exercises import NOTEBOOKS
from .jobs import PACKAGE, STATUSES, Mark, Row, Settings
from .submission import MOST, Submission

TRIES = 3  # a submission during which the grader was stopped so often is not tried again
DEFAULT = Settings()
FOREIGN = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)  # a line's faults


class Record:
    """The file `progress.jsonl` beside the tables. Its first line holds the seed of the cases."""

    def __init__(self, folder: pathlib.Path):
        self.path = folder / "progress.jsonl"
        self.rows: dict[str, Row] = {}
        self.begun: dict[str, int] = {}
        self.lock = threading.Lock()
        self.seed = None
        for line in self._lines():
            with contextlib.suppress(*FOREIGN):
                self._take(line)  # else it is none of ours
        if self.seed is None:
            self.seed = secrets.randbelow(2**31)
            self._write({"seed": self.seed})

    def _lines(self) -> list[dict]:
        lines = []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, RecursionError):  # the last may be cut off
                    lines.append(json.loads(line))
        return lines

    def _take(self, line: dict) -> None:
        key = line.get("key")
        if "seed" in line:
            self.seed = int(line["seed"]) % 2**31
        elif "row" in line:
            marks = [Mark(*map(str, mark)) for mark in line["row"][3]]
            row = Row(*map(str, line["row"][:3]), marks, str(line["row"][4]))
            whole = [mark.exercise for mark in marks] == ({"": []} | NOTEBOOKS)[row.notebook]
            if whole and {mark.status for mark in marks} <= {*STATUSES}:  # else of another minisd
                self.rows[key] = row
        else:
            self.begun[key] = self.begun.get(key, 0) + int(line["begun"])

    def _write(self, line: dict) -> None:
        with self.lock, self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(line)}\n")  # what is before it may be half a line
            file.flush()
            os.fsync(file.fileno())

    def begin(self, key: str) -> bool:
        """Note that a submission is tried; False when it has stopped the grader too often."""
        if self.begun.get(key, 0) >= TRIES:
            return False
        self._write({"key": key, "begun": 1})
        return True

    def leave(self, key: str) -> None:
        """Note that it was given up for a reason of ours: this try does not count."""
        self._write({"key": key, "begun": -1})

    def finish(self, key: str, row: Row) -> None:
        """Keep a row."""
        self.rows[key] = row
        self._write({"key": key, "row": row})


@functools.cache
def _edition() -> bytes:
    """Stands for this minisd and its exercises."""
    files = sorted(PACKAGE.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).digest()


def key(submission: Submission, settings: Settings = DEFAULT) -> str:
    """Stands for a submission's student, name and bytes, this minisd, and the limits: a row counts
    for as long as none of them changes.
    """
    limits = f"{settings.seconds:g}\0{settings.gigabytes:g}"
    text = f"{submission.student}\0{submission.name}\0{limits}\0"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass") + _edition())
    with contextlib.suppress(OSError):
        state = submission.path.stat()
        if stat.S_ISREG(state.st_mode) and state.st_size <= MOST:  # others are not read
            digest.update(submission.path.read_bytes())
    return digest.hexdigest()[:24]

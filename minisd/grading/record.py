"""What is done already, a line of JSON each: an interrupted run goes on where it stopped."""

import contextlib
import hashlib
import json
import os
import pathlib
import secrets
import threading

from .jobs import Mark, Row
from .submission import Submission

TRIES = 3  # a submission during which the grader was stopped so often is not tried again


class Record:
    """The file `progress.jsonl` beside the tables. Its first line holds the seed of the cases."""

    def __init__(self, folder: pathlib.Path):
        self.path = folder / "progress.jsonl"
        self.rows: dict[str, Row] = {}
        self.begun: dict[str, int] = {}
        self.lock = threading.Lock()
        self.seed = None
        for line in self._lines():
            self._take(line)
        if self.seed is None:
            self.seed = secrets.randbelow(2**31)
            self._write({"seed": self.seed})

    def _lines(self) -> list[dict]:
        lines = []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):  # the last line may have been cut off
                    lines.append(json.loads(line))
        return lines

    def _take(self, line: dict) -> None:
        key = line.get("key")
        if "seed" in line:
            self.seed = line["seed"]
        elif "row" in line:
            marks = [Mark(*mark) for mark in line["row"][3]]
            self.rows[key] = Row(*line["row"][:3], marks, line["row"][4])
        else:
            self.begun[key] = self.begun.get(key, 0) + line["begun"]

    def _write(self, line: dict) -> None:
        with self.lock, self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * (file.tell() > 0 and not self._whole()) + json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _whole(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

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


def key(submission: Submission) -> str:
    """Stands for a submission's student, name and bytes: a file handed in again is graded again."""
    digest = hashlib.sha256(f"{submission.student}\0{submission.name}\0".encode())
    with contextlib.suppress(OSError):
        digest.update(submission.path.read_bytes())
    return digest.hexdigest()[:24]

"""A returned notebook as it lies on the disk: whose it is, which notebook it is, what it holds."""

import json
import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from ..exercises import NOTEBOOKS

MOST = 50_000_000  # bytes of a file


class Submission(NamedTuple):
    """A file and the student it is of; `name` is what it is called in the tables."""

    path: pathlib.Path
    student: str
    name: str


class Content(NamedTuple):
    """What was found in a file. notebook: "05_ddim", or "" where nobody can tell; functions:
    exercise -> the function that its `check` calls; broken: why the file cannot be read.
    """

    cells: list[str]
    notebook: str
    functions: dict[str, str]
    broken: str = ""


def collect(arguments: Iterable[str | pathlib.Path]) -> list[Submission]:
    """The submissions that files and folders on the command line stand for, in a fixed order.

    In a folder, the first folder below it is the student (`class/anna/05_ddim.ipynb`), or, where
    there is none, the file's name without the notebook's (`class/anna_05_ddim.ipynb`).
    """
    found = {}
    for root in map(pathlib.Path, arguments):
        if not root.exists():
            raise ValueError(f"there is no file or folder {root}")
        paths = sorted(root.rglob("*.ipynb")) if root.is_dir() else [root]
        for path in paths:
            inside = path.relative_to(root).parts if root.is_dir() else (path.name,)
            if ".ipynb_checkpoints" in inside or path.resolve() in found or path.is_dir():
                continue
            student = inside[0] if len(inside) > 1 else _student(path)
            found[path.resolve()] = Submission(path, student, "/".join(inside))
    return sorted(found.values(), key=lambda s: (s.student, s.name, str(s.path)))


def _student(path: pathlib.Path) -> str:
    rest = path.stem
    for notebook in NOTEBOOKS:
        rest = rest.replace(notebook, "")
    return rest.strip(" _-.") or path.resolve().parent.name


def content(submission: Submission) -> Content:
    """What a submission holds; never an error."""
    named = [n for n in NOTEBOOKS if n in submission.name]
    named += [n for n in NOTEBOOKS if re.search(rf"(?<!\d){n[:2]}_", submission.name)]
    guess = named[0] if named else ""
    try:
        cells = read_cells(submission.path)
    except Exception as error:  # of any kind: the file is a stranger's
        why = f"{type(error).__name__}: {str(error)[:200]}"
        return Content([], guess, {}, f"the file is no notebook ({why})")
    code = "\n".join(cells)
    called = dict(re.findall(r'^\s*check\(\s*["\'](\w+)["\']\s*,\s*(\w+)', code, re.M))
    present = {
        n: sum(e in called or f"def my_{e}(" in code for e in NOTEBOOKS[n]) for n in NOTEBOOKS
    }
    most = max(present, key=present.get)
    notebook = most if present[most] else guess
    functions = {e: called.get(e, f"my_{e}") for e in NOTEBOOKS.get(notebook, [])}
    return Content(cells, notebook, functions)


def read_cells(path: pathlib.Path) -> list[str]:
    """The sources of a notebook's code cells."""
    if path.stat().st_size > MOST:
        raise ValueError(f"it has more than {MOST // 10**6} MB")
    notebook = json.loads(path.read_text(encoding="utf-8"))
    sheets = notebook.get("worksheets") or [notebook]  # nbformat 3 had sheets, and "input"
    cells = [cell for sheet in sheets for cell in sheet["cells"]]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    return ["".join(cell["source"] if "source" in cell else cell["input"]) for cell in code]

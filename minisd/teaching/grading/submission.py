"""A returned notebook as it lies on the disk: whose it is, which notebook it is, what it holds."""

import json
import os
import pathlib
import re
import stat
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from ..exercises import NOTEBOOKS
from .calls import answers

MOST = 50_000_000  # bytes of a file
PACKED = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz")
COPY = re.compile(r"(?: ?\(\d+\)|[-_ ]+Copy\d*)+$")  # what browsers and Jupyter add to a name
CANVAS = re.compile(r"(.+?)(?:_LATE)?(_\d{3,})_\d{3,}_")  # name, user, submission
MOODLE = re.compile(r"(.+)_assignsubmission_")


class Submission(NamedTuple):
    """A file and the student it is of; `name` is what it is called in the tables."""

    path: pathlib.Path
    student: str
    name: str


class Unread(NamedTuple):
    """Something that was handed in and is not graded, and why."""

    name: str
    why: str


class Content(NamedTuple):
    """What was found in a file. notebook: "05_ddim", or "" where nobody can tell; functions:
    exercise -> expressions for the answer to it, the one of its last `check` call first; broken:
    why the file cannot be read; note: what else is in it.
    """

    cells: list[str]
    notebook: str
    functions: dict[str, list[str]]
    broken: str = ""
    note: str = ""


def collect(arguments: Iterable[str | pathlib.Path]) -> tuple[list[Submission], list[Unread]]:
    """The submissions that files and folders on the command line stand for, in a fixed order, and
    what is there and not read. No link is followed: it may lead to a classmate's work.
    """
    found, unread, arguments = {}, set(), [pathlib.Path(a) for a in arguments]
    for root in arguments:
        if not os.path.lexists(root):
            raise ValueError(f"there is no file or folder {root}")
        whole = root.is_dir() and not (root.is_symlink() and len(arguments) > 1)
        paths, folders = _walk(root) if whole else ([root], [])
        places = {p: tuple(map(_shown, p.relative_to(root).parts or [p.name])) for p in paths}
        why = {path: _why_not(path, path == root) for path in places}
        unread |= {Unread("/".join(places[p]), reason) for p, reason in why.items() if reason}
        students, depth = _students({p: place for p, place in places.items() if why[p] == ""})
        seen = {place[:n] for p, place in places.items() if why[p] is not None for n in range(3)}
        empty = {tuple(map(_shown, folder.relative_to(root).parts)) for folder in folders} - seen
        empty = {"/".join(place) or _shown(str(root)) for place in empty if len(place) <= depth}
        unread |= {Unread(name, "no notebook is in this folder") for name in empty}
        for path, student in students.items():
            one = Submission(path, student, "/".join(places[path]))
            own = (student, _guess(path.name) or path.name)
            found.setdefault(os.path.abspath(path), (one, own, root if whole else root.parent))
    holders = {}  # a student's notebook -> the arguments that have it
    for _, own, argument in found.values():
        holders.setdefault(own, set()).add(argument)
    for key, (one, own, argument) in found.items():
        student = f"{_shown(str(argument))}/{one.student}" if len(holders[own]) > 1 else one.student
        found[key] = one._replace(student=student)
    return sorted(found.values(), key=lambda s: (s.student, s.name, str(s.path))), sorted(unread)


def _walk(root: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """What is not a folder below one, with folders that are links or cannot be opened; and the
    folder itself, its own ones and theirs. However deep they are: os.walk calls itself.
    """
    found, folders, left = [], [], [(os.fspath(root), 0)]
    while left:
        folder, depth = left.pop()
        folders += [folder] * (depth < 3)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        found.append(entry.path)
                    elif entry.name[0] != ".":
                        left.append((entry.path, depth + 1))
        except OSError:
            found.append(folder)
    return sorted(map(pathlib.Path, found)), list(map(pathlib.Path, folders))


def _why_not(path: pathlib.Path, told: bool) -> str | None:
    """Why a file is not read: "" if it is; None if it has nothing to do with notebooks. What was
    told on the command line may have any name.
    """
    name = path.name.lower()
    about = told or ".ipynb" in name or name.endswith(PACKED) or _guess(name) or os.path.isdir(path)
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        return f"it cannot be opened: {error.strerror}"
    reasons = {
        "it is a link; hand in the file itself": stat.S_ISLNK(mode),
        "this folder cannot be opened": stat.S_ISDIR(mode),
        "it is no plain file": not stat.S_ISREG(mode),
        "macOS's notes on a file, not the file": name[:2] == "._" or "__MACOSX" in path.parts,
        "it is packed; unpack it": name.endswith(PACKED),
        "its name does not end in .ipynb": not (told or name.endswith(".ipynb")),
    }
    return next((why for why, holds in reasons.items() if holds), "") if about else None


def _shown(name: str) -> str:
    """A file's name as text: a byte that is no UTF-8 as \\xfc, an accented letter as one."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))


def _students(places: dict[pathlib.Path, tuple[str, ...]]) -> tuple[dict[pathlib.Path, str], int]:
    """Whose each file is, and how many folders tell it. Moodle and Canvas write it into names of
    folders and files. Else it is the first folder (`anna/05_ddim.ipynb`), or the file's name
    without the notebook's where there is none. Sections, where half of the first folders have one
    notebook in several second ones (`group1/anna/05_ddim.ipynb`), are not students: their folders
    are.
    """
    students, deep, tops = {}, {}, set()
    users = {}  # folder -> Canvas's users in it: a student's own folder is of one
    for path in places:
        if canvas := CANVAS.match(path.name):
            users.setdefault(path.parent, set()).add(canvas[2])
    for path, (*folders, name) in places.items():
        folders = [folder for folder in folders if folder not in NOTEBOOKS]
        moodle = [found[1] for folder in folders if (found := MOODLE.match(folder))]
        canvas = CANVAS.match(name)
        if canvas and (not folders or len(users[path.parent]) > 1):
            students[path] = canvas[1] + canvas[2]
        elif moodle or not folders:
            students[path] = moodle[0] if moodle else _student(path, name)
        else:
            students[path] = folders[0]
            tops.add(folders[0])
            if len(folders) > 1:
                deep[path] = folders
    owners, firsts = {}, {}  # of a notebook in a first folder, and of a name: the folders
    for path, (first, second, *_) in deep.items():
        owners.setdefault((first, _guess(path.name) or path.name), set()).add(second)
        firsts.setdefault(second, set()).add(first)
    split = {first for (first, _), names in owners.items() if len(names) > 1}
    if not split or 2 * len(split) < len(tops):
        return students, 1
    for path, (first, second, *_) in deep.items():
        students[path] = second if len(firsts[second]) == 1 else f"{first}/{second}"
    return students, 2


def _student(path: pathlib.Path, name: str) -> str:
    rest = COPY.sub("", pathlib.PurePath(name).stem)
    for notebook in NOTEBOOKS:
        rest = re.sub(rf"{notebook}(-\d{{1,2}}(?!\d))?|^{notebook[:2]}$", "", rest)
    return rest.strip(" _-.") or _shown(pathlib.Path(os.path.abspath(path)).parent.name)


def _guess(name: str) -> str:
    """The notebook that a file's name tells, or ""."""
    named = [n for n in NOTEBOOKS if n in name]
    named += [n for n in NOTEBOOKS if re.search(rf"(?<!\d){n[:2]}(_|\.\w+$)", name)]
    return named[0] if named else ""


def content(submission: Submission) -> Content:
    """What a submission holds; never an error."""
    guess = _guess(submission.name)
    try:
        if submission.path.stat().st_size > MOST:
            why = f"the file has more than {MOST // 10**6} MB; it can be handed in without outputs"
            return Content([], guess, {}, why)
        cells = read_cells(submission.path)
    except Exception as error:  # of any kind: the file is a stranger's
        why = f"{type(error).__name__}: {str(error)[:200]}"
        return Content([], guess, {}, f"the file is no notebook ({why})")
    code, called = "\n".join(cells), answers(cells)
    present = {
        n: [e for e in NOTEBOOKS[n] if e in called or f"def my_{e}(" in code] for n in NOTEBOOKS
    }
    most = max(present, key=lambda n: (len(present[n]), n == guess))
    notebook = most if present[most] else guess
    others = [e for n in NOTEBOOKS if n != notebook for e in present[n]]
    note = f"not marked here, they are of another notebook: {', '.join(others)}" if others else ""
    functions = {e: called.get(e, []) for e in NOTEBOOKS.get(notebook, [])}
    functions = {e: list(dict.fromkeys([*own, f"my_{e}"])) for e, own in functions.items()}
    return Content(cells, notebook, functions, note=note)


def read_cells(path: pathlib.Path) -> list[str]:
    """The sources of a notebook's code cells."""
    notebook = json.loads(path.read_bytes())  # in UTF-8 or UTF-16, with its mark or without
    sheets = notebook.get("worksheets") or [notebook]  # nbformat 3 had sheets, and "input"
    cells = [cell for sheet in sheets for cell in sheet["cells"]]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    return ["".join(cell["source"] if "source" in cell else cell["input"]) for cell in code]

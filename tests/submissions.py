"""Returned notebooks as a class may return them, each with the table it must give: right, wrong,
partly done, cheating, broken. tests/teaching/test_grade.py takes a few, tools/grade_forty.py all.
"""

import json
import pathlib
import re

from minisd.teaching.exercises import EXERCISES, NOTEBOOKS

ROOT = pathlib.Path(__file__).parents[1]
BOOK = "02_reverse_posterior"
NAMES = NOTEBOOKS[BOOK]
FUSE, BOTH, X0, COEF, TWO, MEAN = NAMES
STUB = "    ...  # your code\n    return ..."


def notebook(cells: list[str]) -> str:
    """Code cells as a notebook's text."""
    made = [
        {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": c}
        for c in cells
    ]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 4})


def code(path: pathlib.Path) -> list[str]:
    """A notebook's code cells."""
    cells = json.loads(path.read_text())["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def solved(book: str = BOOK) -> list[str]:
    """The cells of a solutions notebook: short to run."""
    return code(ROOT / "notebooks" / "solutions" / f"{book}.ipynb")


def with_body(cells: list[str], name: str, body: str) -> list[str]:
    """The cells with another body of my_<name>."""
    changed = []
    for cell in cells:
        if f"def my_{name}(" in cell:
            cell = cell[: cell.index(":\n", cell.index(f"def my_{name}(")) + 2] + body
        changed.append(cell)
    assert changed != cells, name
    return changed


def filled(book: str) -> list[str]:
    """The whole notebook with its solutions filled in, as a good student returns it."""
    bodies = {}
    for cell in solved(book):
        if found := re.search(r"def (my_\w+)\(", cell):
            bodies[found[1]] = re.sub(r"\n+check\(.*\)\s*$", "", cell)
    cells = []
    for cell in code(ROOT / "notebooks" / f"{book}.ipynb"):
        found = re.search(r"^def (my_\w+)\(", cell, re.M)
        cells.append(bodies.pop(found[1]) if found and found[1] in bodies else cell)
    assert not bodies
    return cells


def marks(default: str = "correct", book: str = BOOK, **special) -> dict:
    """exercise -> status, or (status, part of its hint or text)."""
    return {name: default for name in NOTEBOOKS[book]} | special


def slip(name: str, part: str) -> tuple[str, str]:
    """("wrong", the hint of an exercise that holds `part`)."""
    [hint] = [hint for hint in EXERCISES[name].slips if part in hint]
    return "wrong", hint


# ---- right, wrong, partly done ------------------------------------------------------------

RIGHT = {
    "right-whole": (notebook(filled(BOOK)), marks()),
    "right-compact": (notebook(solved()), marks()),
    "right-numpy": (
        notebook(
            with_body(
                ["import numpy as np", *solved()],
                BOTH,
                "    ab = np.asarray(ab)\n    large = 1 - ab[1:] / ab[:-1]\n"
                "    return [(1 - ab[:-1]) / (1 - ab[1:]) * large, large]",
            )
        ),
        marks(),
    ),
    "right-renamed-in-both": (notebook([c.replace("my_", "the_") for c in solved()]), marks()),
    "right-in-place": (
        notebook(
            with_body(
                solved(),
                COEF,
                "    rest = (1 - ab_t).sqrt()\n"
                "    return ab_t.div_(ab_s).sqrt_().mul_(1 - ab_s).div_(rest)",
            )
        ),
        marks(),
    ),
    "right-among-errors": (
        notebook([c for cell in solved() for c in (cell, "1 / 0", "nowhere")]),
        marks(),
    ),
    "right-05": (notebook(solved("05_ddim")), marks(book="05_ddim")),
    "right-06": (notebook(solved("06_pndm_plms")), marks(book="06_pndm_plms")),
    "right-15": (notebook(solved("15_sd1_sd2_sdxl")), marks(book="15_sd1_sd2_sdxl")),
}
WRONG_BODIES = {  # name -> exercise, body, what it must get
    "wrong-sum": (FUSE, "    return (m_1 + m_2) / 2, 1 / (1 / v_1 + 1 / v_2)", "count alike"),
    "wrong-precision": (
        FUSE,
        "    p = 1 / v_1 + 1 / v_2\n    return (m_1 / v_1 + m_2 / v_2) / p, p",
        "you return the precision",
    ),
    "wrong-order": (
        BOTH,
        "    large = 1 - ab[1:] / ab[:-1]\n    return large, (1 - ab[:-1]) / (1 - ab[1:]) * large",
        "the order",
    ),
    "wrong-root": (
        BOTH,
        "    large = 1 - ab[1:] / ab[:-1]\n"
        "    return ((1 - ab[:-1]) / (1 - ab[1:]) * large) ** 0.5, large**0.5",
        "standard deviations",
    ),
    "wrong-coef": (COEF, "    return (1 - ab_s) ** 0.5", "all the noise"),
    "wrong-coef2": (
        COEF,
        "    return (ab_t / ab_s) ** 0.5 * (1 - ab_s) / (1 - ab_t)",
        "that is coef2",
    ),
}
WRONG = {
    name: (notebook(with_body(solved(), which, body)), marks(**{which: slip(which, part)}))
    for name, (which, body, part) in WRONG_BODIES.items()
} | {
    "wrong-unknown": (
        notebook(with_body(solved(), FUSE, "    return m_1 * m_2, v_1 * v_2")),
        marks(**{FUSE: ("wrong", "case 1 of")}),
    ),
    "wrong-none": (
        notebook(with_body(solved(), FUSE, "    print(m_1)")),
        marks(**{FUSE: ("wrong", "is a `return` missing")}),
    ),
}
PARTLY = {
    "partly-none": (notebook(code(ROOT / "notebooks" / f"{BOOK}.ipynb")), marks("not attempted")),
}
for count in range(1, 6):
    cells = solved()
    for left in NAMES[count:]:
        cells = with_body(cells, left, STUB)
    expected = marks(**{left: "not attempted" for left in NAMES[count:]})
    PARTLY[f"partly-{count}"] = (notebook(cells), expected)

# ---- cheating -----------------------------------------------------------------------------

NAUGHT = "    return 0.0, 0.0"
_all_naught = solved()
for _name in NAMES:
    _all_naught = with_body(_all_naught, _name, NAUGHT)
_none = marks("wrong")

CHEATS = {
    "cheat-own-check": (
        notebook(["def check(name, f):\n    print(name + ': correct, 9 cases')", *_all_naught[1:]]),
        _none,
    ),
    "cheat-prints": (
        notebook(
            with_body(
                _all_naught, FUSE, "    print('fuse_gaussians: correct')\n    return 0.0, 0.0"
            )
        ),
        _none,
    ),
    "cheat-patches": (
        notebook(
            [
                *_all_naught,
                "import torch\nfrom minisd.teaching import checking as checks, verdicts\n"
                "verdicts.difference = lambda *a, **k: ''\n"
                "verdicts.verdict = checks.verdict = lambda *a, **k: ('correct',)\n"
                "checks.Exercise.tolerance = 1e9\n"
                "torch.Tensor.__sub__ = lambda a, b: a",
            ]
        ),
        _none,
    ),
    "cheat-edits-the-package": (
        notebook(
            [
                "import minisd, pathlib\n"
                "for path in pathlib.Path(minisd.__file__).parent.rglob('*.py'):\n"
                "    text = path.read_text()\n"
                "    path.chmod(0o644)\n"
                "    path.write_text(text.replace('return', 'return 0.0 and'))",
                *_all_naught,
            ]
        ),
        marks("error"),
    ),
    "cheat-looks-up-the-stack": (
        notebook(
            with_body(
                _all_naught,
                FUSE,
                "    import gc, sys\n"
                "    frame = sys._getframe()\n"
                "    while frame:\n"
                "        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:\n"
                "            if hasattr(value, 'reference'):\n"
                "                return value.reference(m_1, v_1, m_2, v_2)\n"
                "        frame = frame.f_back\n"
                "    for value in gc.get_objects():\n"
                "        if type(value).__name__ == 'Exercise':\n"
                "            return value.reference(m_1, v_1, m_2, v_2)\n" + NAUGHT,
            )
        ),
        _none,
    ),
    "cheat-imports-the-exercises": (
        notebook(
            with_body(
                _all_naught,
                FUSE,
                "    from minisd.teaching.exercises import EXERCISES\n"
                "    return EXERCISES['fuse_gaussians'].reference(m_1, v_1, m_2, v_2)",
            )
        ),
        marks("wrong", **{FUSE: ("error", "ModuleNotFoundError")}),
    ),
    "cheat-calls-ours-05": (
        notebook(with_body(solved("05_ddim"), "pred_x0", "    return pred_x0(x_t, eps, ab_t)")),
        marks(book="05_ddim", pred_x0=("borrowed", "calls minisd.equations.ddpm.pred_x0")),
    ),
}

# ---- broken -------------------------------------------------------------------------------

BROKEN = {
    "broken-json-" + BOOK: (notebook(solved())[:2000], marks("missing")),
    "broken-empty-" + BOOK: ("", marks("missing")),
    "broken-other": (notebook(["print('a poem')"]), {}),
    "broken-missing-cell": (
        notebook([c for c in solved() if f"def my_{TWO}(" not in c]),
        marks(**{TWO: ("missing", f"no function my_{TWO}")}),
    ),
    "broken-renamed": (
        notebook([c.replace(f"def my_{COEF}(", "def my_coefficient(") for c in solved()]),
        marks(**{COEF: ("missing", f"no function my_{COEF}")}),
    ),
    "broken-syntax": (
        notebook(with_body(solved(), X0, "    return mean -")),
        marks(**{X0: "missing"}),
    ),
    "broken-raises": (
        notebook(with_body(solved(), FUSE, "    y = m_1[99]\n    return y")),
        marks(**{FUSE: ("error", "`y = m_1[99]`")}),
    ),
    "broken-sys-exit": (notebook(["import sys\nsys.exit(1)", "quit()", *solved()]), marks()),
    "broken-kills-itself": (notebook(["import os\nos._exit(3)", *solved()]), marks()),
    "broken-function-kills": (
        notebook(with_body(solved(), BOTH, "    import os\n    os.kill(os.getpid(), 9)")),
        marks(**{BOTH: ("error", "the kernel died")}),
    ),
    "broken-memory": (
        notebook(
            with_body(
                solved(),
                FUSE,
                "    import numpy\n    return [numpy.zeros(2**27) for _ in range(99)]",
            )
        ),
        marks(**{FUSE: ("error", "MemoryError")}),
    ),
    "broken-loop": (
        notebook(with_body(solved(), MEAN, "    while True:\n        pass")),
        marks(**{MEAN: ("timed out", "while True:")}),
    ),
    "broken-stubborn-loop": (
        notebook(
            with_body(
                solved(),
                FUSE,
                "    while True:\n        try:\n            while True:\n                pass\n"
                "        except BaseException:\n            pass",
            )
        ),
        marks(**{FUSE: ("timed out", "did not come back")}),
    ),
    "broken-sleeps": (notebook(["import time\ntime.sleep(1e6)", *solved()]), marks()),
    "broken-talks": (
        notebook(["for _ in range(3000):\n    print('x' * 100_000)", *solved()]),
        marks(),
    ),
    "broken-long-error": (
        notebook(with_body(solved(), FUSE, "    raise ValueError('x' * 10**8)")),
        marks(**{FUSE: ("error", "ValueError: xxx")}),
    ),
    "broken-kills-its-parent": (
        notebook(["import os\nos.kill(os.getppid(), 9)", *solved()]),
        marks("error"),
    ),
}
_mixed = with_body(solved(), FUSE, "    import numpy\n    return numpy.zeros(2**36)")
_mixed = with_body(_mixed, BOTH, "    import os\n    os.kill(os.getpid(), 9)")
_mixed = with_body(_mixed, COEF, "    return (1 - ab_s) ** 0.5")
_mixed = with_body(_mixed, TWO, "    while True:\n        pass")
_mixed = [cell for cell in _mixed if f"def my_{X0}(" not in cell]
BROKEN["broken-in-five-ways"] = (
    notebook([c for cell in _mixed for c in (cell, "1 / 0")]),
    marks(
        **{
            FUSE: ("error", "MemoryError"),
            BOTH: ("error", "the kernel died"),
            X0: ("missing", "no function"),
            COEF: slip(COEF, "all the noise"),
            TWO: ("timed out", "while True:"),
        }
    ),
)
FORTY = RIGHT | WRONG | PARTLY | CHEATS | BROKEN


def write(folder: pathlib.Path, names: list[str]) -> None:
    """The submissions of these names as files of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.ipynb").write_text(FORTY[name][0])


def departures(rows: list) -> list[str]:
    """Where rows of the grader are not as they must be."""
    found = []
    for row in rows:
        name = row.name.removesuffix(".ipynb")
        expected, got = FORTY[name][1], {mark.exercise: mark for mark in row.marks}
        if set(expected) != set(got):
            found.append(f"{name}: {sorted(got)}")
            continue
        for exercise, wanted in expected.items():
            status, part = wanted if isinstance(wanted, tuple) else (wanted, "")
            mark = got[exercise]
            if mark.status != status or part not in mark.hint + "\n" + mark.text:
                found.append(f"{name}: {exercise}: wanted {wanted}, got {mark} ({row.note})")
    return found

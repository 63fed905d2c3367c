"""The class's copies of notebooks: emptied, cleared, otherwise untouched; nbgrader's marks."""

import json
import pathlib
import re

import pytest

from minisd.exercises import EXERCISES
from minisd.grading.jobs import POINTS
from minisd.handout import emptied, hand_out, main

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
STUB = "def my_f(x):\n    ...  # your code\n    return ..."


@pytest.mark.parametrize(
    ("filled", "stub"),
    [
        (STUB, STUB),
        ("def my_f(x):\n    y = x\n    return y", STUB),
        ("def my_f(x):\n    ### BEGIN SOLUTION\n    return x\n    ### END SOLUTION", STUB),
        (
            'A = 1\n\n\ndef my_f(\n    x,\n):\n    """Doc."""\n    return x\n\n\nB = 2',
            'A = 1\n\n\ndef my_f(\n    x,\n):\n    """Doc."""\n'
            "    ...  # your code\n    return ...\n\n\nB = 2",
        ),
        (
            "def my_f(x):\n    y = ...  # your code\n    return ...  # y[0]",
            "def my_f(x):\n    y = ...  # your code\n    return ...  # y[0]",
        ),
    ],
)
def test_a_body_is_emptied(filled, stub):
    assert emptied(filled, "my_f") == stub


@pytest.mark.parametrize("cell", ["def my_f(x):\n    return (", "def my_f(x): return x"])
def test_a_cell_that_cannot_be_emptied_says_so(cell):
    with pytest.raises(ValueError, match="my_f"):
        emptied(cell, "my_f")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_rest_stays_as_it_is(path):
    """And a teacher's copy that was filled in gives the same as the one with stubs."""
    notebook = json.loads(path.read_text())
    solutions = json.loads((path.parent / "solutions" / path.name).read_text())["cells"]
    filled = {}
    for cell in solutions:
        if found := re.search(r"^def (my_\w+)\(", "".join(cell["source"]), re.M):
            filled[found[1]] = cell["source"]
    copy = hand_out(notebook)
    assert len(copy["cells"]) == len(notebook["cells"])
    changed = 0
    for before, after in zip(notebook["cells"], copy["cells"], strict=True):
        assert before["source"] == after["source"] and before["metadata"] == after["metadata"]
        changed += before != after
    assert changed == 2 * len(filled)
    for cell in notebook["cells"]:
        found = re.search(r"^def (my_\w+)\(", "".join(cell["source"]), re.M)
        if cell["cell_type"] == "code" and found and found[1] in filled:
            solution = re.sub(r" +### \w+ SOLUTION\n?", "", "".join(filled[found[1]]))
            cell["source"] = [solution.rstrip() + "\n"]
    for cell in hand_out(notebook)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and re.search(r"^def my_\w+\(", source, re.M):
            assert "# your code" in source and "return ..." in source and not cell["outputs"]


@pytest.mark.parametrize("path", NOTEBOOKS[:3], ids=lambda p: p.stem)
def test_nbgraders_marks(path):
    cells = hand_out(json.loads(path.read_text()), nbgrader=True)["cells"]
    marks = [cell["metadata"]["nbgrader"] for cell in cells if "nbgrader" in cell["metadata"]]
    grades = {m["grade_id"]: m["points"] for m in marks if m["grade"]}
    for cell in cells:
        mark = cell["metadata"].get("nbgrader", {})
        source = "".join(cell["source"])
        if mark.get("solution"):
            assert source.count("### BEGIN SOLUTION") == source.count("### END SOLUTION") == 1
            compile(source, "cell", "exec")
            name = mark["grade_id"]
            assert grades[f"check-{name}"] == POINTS[EXERCISES[name].level]
            assert not mark["grade"] and not mark["locked"]
        elif mark:
            assert mark["locked"] and "required=True)" in source
    assert len(marks) == 2 * len(grades) == len({m["grade_id"] for m in marks}) > 0


def test_the_command(tmp_path, capsys):
    assert main([str(NOTEBOOKS[2]), "--out", str(tmp_path), "--nbgrader"]) == 0
    assert "6 blanks" in capsys.readouterr().out
    (tmp_path / "bad.ipynb").write_text("{")
    for name, out in (("bad.ipynb", "x"), (NOTEBOOKS[2].name, "."), ("none.ipynb", "x")):
        with pytest.raises(SystemExit):
            main([str(tmp_path / name), "--out", str(tmp_path / out)])
        assert name in capsys.readouterr().err

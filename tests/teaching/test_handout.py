"""The class's copies of notebooks: emptied, cleared, otherwise untouched; nbgrader's marks."""

import ast
import inspect
import json
import pathlib
import re
import textwrap
import time

import pytest
import rewrites
import submissions

from minisd.__main__ import main
from minisd.teaching.exercises import EXERCISES
from minisd.teaching.exercises import NOTEBOOKS as IN_NOTEBOOKS
from minisd.teaching.grading.calls import answers, parsed
from minisd.teaching.grading.jobs import POINTS
from minisd.teaching.guarded import attempt
from minisd.teaching.handout import emptied, hand_out
from minisd.teaching.verdicts import copies, verdict

ROOT = pathlib.Path(__file__).parents[2]
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
        ("def my_f(x):\n    return x / 2\n    ...  # your code\n    return ...", STUB),
        ("def my_f(x):\n    ...  # your code\n    return ...\n    return x / 2", STUB),
        ("def my_f(x):\n    if x:  # your code\n        return ...\n    return x", STUB),
        ("def my_f(x):\n    # halve it\n    return x / 2  # so\n    # and done", STUB),
        ("def my_f(x):\n    raise NotImplementedError", STUB),
        ("def my_f(x):\n    return x\n\n\n" + STUB, STUB + "\n\n\n" + STUB),
        ("%time 1\nif True:\n    def my_f(x):\n        return x\n!ls", None),
        ("def my_f(x):\n\treturn x", STUB.replace("    ", "\t")),
        (
            'def my_f(x):\n    """Doc."""\n\n    # halve\n\n    return x\n\n    # it\n'
            "        # so\n\n\n# kept",
            'def my_f(x):\n    """Doc."""\n\n' + STUB[13:] + "\n\n\n# kept",
        ),
        (
            "def my_f(x):\n    def my_f(y):\n        y = 1\n        y = 2\n        return y\n"
            "    return my_f(x)\nA = 1\nB = 2",
            STUB + "\nA = 1\nB = 2",
        ),
        ("class A:\n    pass\n\n\n" + STUB, "class A:\n    pass\n\n\n" + STUB),
    ],
)
def test_a_body_is_emptied(filled, stub):
    if stub is None:
        stub = filled.replace("return x", "...  # your code\n        return ...")
    assert emptied(filled, "my_f") == stub


@pytest.mark.parametrize(
    "cell",
    [
        "def my_f(x):\n    return (",
        "def my_f(x): return x",
        "my_f = lambda x: x",
        "my_f, g = f, g",
        "from answers import f as my_f",
        "class my_f:\n    pass",
        "async def my_f(x):\n    return x",
        STUB + "\n\n\nmy_f = other",
    ],
)
def test_a_cell_that_cannot_be_emptied_says_so(cell):
    with pytest.raises(ValueError, match="my_f"):
        emptied(cell, "my_f")


@pytest.mark.filterwarnings("ignore:code cell 20 has")  # notebook 00 shows what check does
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
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and "](solutions/" in text:
            text = text.replace(f"[solutions](solutions/{path.name})", "solutions")
            cell["source"] = text.splitlines(keepends=True)
    assert "solutions/" not in json.dumps([c["source"] for c in copy["cells"]])
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
    for source in sources(hand_out(notebook)):
        if re.search(r"^def my_\w+\(", source, re.M):
            assert "# your code" in source and "return ..." in source


def sources(notebook):
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def blanks(notebook):
    """What check's rule says, case by case, of the last definition of each function of a copy: the
    body alone, under `*a`, since a stub needs nothing of the rest.
    """
    said = {}
    trees = list(filter(None, map(parsed, sources(notebook))))
    nodes = [node for tree in trees for node in ast.walk(tree)]
    for name, [function, *_] in answers(sources(notebook)).items():
        bodies = [n.body for n in nodes if isinstance(n, ast.FunctionDef) and n.name == function]
        names, said[name] = {}, set()
        for body in bodies:
            lines = ast.unparse(ast.Module(body, [])).splitlines()
            exec("def stub(*a):\n" + textwrap.indent("\n".join(lines), "    "), names)
            exercise = EXERCISES[name]
            given = [attempt(names["stub"], copies(case)) for case in exercise.drawn()]
            said[name] |= {
                verdict(exercise, exercise.drawn(), lambda i, g=g: g).status for g in given
            }
    return said


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_solutions_notebook_is_handed_out_without_an_answer(path):
    copy = hand_out(json.loads((path.parent / "solutions" / path.name).read_text()))
    text = json.dumps(copy)
    assert "SOLUTION" not in text and "](solutions/" not in text
    assert blanks(copy) == {name: {"not attempted"} for name in IN_NOTEBOOKS[path.stem]}


@pytest.mark.parametrize("name", EXERCISES)
def test_a_rewrite_is_handed_out_without_an_answer(name):
    """In four ways to leave an answer beside a stub, or to hide the check that asks for it."""
    code = inspect.getsource(getattr(rewrites, name))
    left = code + "    ...  # your code\n    return ...\n"
    answer = code[code.index("):\n") + 3 :]
    for cells in (
        [left, f'check("{name}", {name})  # mine'],
        [code, f"def {name}(*a):\n    ...\n", f'x = 1; check("{name}", {name}, required=True)'],
        [f"%time\n{code}\n{code}", f'check(name="{name}", answer={name})'],
        [f"if True:\n{textwrap.indent(code, '    ')}", f'%time check("{name}", {name})'],
    ):
        copy = hand_out(json.loads(submissions.notebook(cells)))
        assert blanks(copy) == {name: {"not attempted"}}, cells
        kept = "\n".join(sources(copy))
        assert not [line for line in answer.splitlines() if len(line) > 9 and line in kept]


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        (['check("sigma", lambda b, ab, eta: 1)'], "must name a function"),
        (['check("sigma", functools.partial(f, 1))'], "must name a function"),
        (['check("sigma", my_sigma)'], "no cell has the function my_sigma"),
        (["my_sigma = f", 'check("sigma", my_sigma)'], "not only given by `def`"),
        (["def my_sigma(b) return b", 'check("sigma", my_sigma)'], "cannot be read as Python"),
        (
            ["def my_sigma(b):\n    return b", 'check("sigma", my_sigma)'],
            "fails on sigma: .* takes 1",
        ),
        (['check("qqq", my_qqq)'], "there is no exercise 'qqq'"),
    ],
)
def test_what_cannot_be_emptied_is_refused(cells, sentence):
    with pytest.raises(ValueError, match=sentence):
        hand_out(json.loads(submissions.notebook(cells)))


def test_a_check_that_is_not_understood_is_warned_of():
    cells = ["check(", "check(name, f)", 'for f in fs:\n    check("sigma", f)', "print('check(')"]
    with pytest.warns(UserWarning) as told:
        hand_out(json.loads(submissions.notebook(cells)))
    assert [str(w.message)[:11] for w in told] == [f"code cell {i}" for i in (1, 2, 3)]


def test_what_shows_an_answer_is_cleared_too():
    """The output of a cell that names the function, a region that no check asks for."""
    notebook = json.loads(
        submissions.notebook(
            ["def my_sigma(beta_t, ab_t, eta):\n    return eta", 'check("sigma", my_sigma)']
            + ["show(my_sigma)", "other(1)"]
            + ["def helper(x):\n    ### BEGIN SOLUTION\n    return x\n    ### END SOLUTION"]
        )
    )
    for cell in notebook["cells"]:
        cell["outputs"] = [{"text": "return eta"}]
    copy = hand_out(notebook)
    assert [bool(cell["outputs"]) for cell in copy["cells"]] == [False, False, False, True, True]
    assert sources(copy)[4] == "def helper(x):\n    ...  # your code"


def test_regions_without_an_end_take_no_time():
    start = time.process_time()
    cells = ["### BEGIN SOLUTION\n" * 20_000]
    hand_out(json.loads(submissions.notebook(cells)))
    assert time.process_time() - start < 1  # 0.02 s


@pytest.mark.filterwarnings("ignore:code cell 20 has")
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
    assert main(["handout", str(NOTEBOOKS[2]), "--out", str(tmp_path), "--nbgrader"]) == 0
    assert "6 blanks" in capsys.readouterr().out
    assert main(["handout", str(NOTEBOOKS[0]), "--out", str(tmp_path)]) == 0
    assert "minisd: " + str(NOTEBOOKS[0]) + ": code cell 27 has" in capsys.readouterr().err
    (tmp_path / "bad.ipynb").write_text("{")
    (tmp_path / "list.ipynb").write_text("[]")
    (tmp_path / "picture.ipynb").write_bytes(b"\x89PNG")
    (tmp_path / "folder.ipynb").mkdir()
    none = {"bad": "is no", "list": "is no", "picture": "is no", "folder": "Is a directory"}
    for name, why in (none | {"none": "No such file"}).items():
        path = str(tmp_path / f"{name}.ipynb")
        assert main(["handout", path, "--out", str(tmp_path / "x")]) == 1
        told = capsys.readouterr().err
        assert path in told and why in told and "rrno" not in told and told.count("\n") == 1
    file = str(tmp_path / "bad.ipynb")
    for words in (["handout", str(NOTEBOOKS[2])], ["grade", str(NOTEBOOKS[2])]):
        assert main([*words, "--out", file]) == 1
        assert f"--out names a folder, and {file} is a file" in capsys.readouterr().err
    text = (tmp_path / NOTEBOOKS[2].name).read_bytes()  # nobody's file is written over
    for path in (tmp_path / NOTEBOOKS[2].name, NOTEBOOKS[2]):
        assert main(["handout", str(path), "--out", str(tmp_path)]) == 1
        assert "is there already" in capsys.readouterr().err
    assert (tmp_path / NOTEBOOKS[2].name).read_bytes() == text

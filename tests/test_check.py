"""The exercises and their checker: what passes, what does not, and what it says."""

import inspect
import json
import math
import pathlib
import re

import numpy as np
import pytest
import torch

from minisd import check as module
from minisd.check import Exercise, check, compare
from minisd.exercises import EXERCISES

ROOT = pathlib.Path(__file__).parents[1]
X = torch.arange(6.0).double().reshape(2, 3)


@pytest.fixture
def square(monkeypatch):
    """An exercise to try things on: x², with two slips."""
    exercise = Exercise(
        lambda x, k: x**2 + k,
        lambda g: [(X, 1.0), (torch.randn(3, generator=g).double(), 0.0)],
        {"x is doubled, not squared": lambda x, k: 2 * x + k, "k is left out": lambda x, k: x**2},
    )
    monkeypatch.setitem(EXERCISES, "square", exercise)


def test_compare(capsys):
    compare("halves", X / 2, np.asarray(X) * 0.5)
    assert capsys.readouterr().out == "halves: equal, max |a - b| <= 1e-12 over 6 numbers\n"
    compare("near", 1.0, 1.0 + 1e-4, tolerance=1e-3)
    compare("nothing", math.inf, math.inf)
    compare("nan", math.nan, math.nan)
    for a, b in [(X, X + 1e-11), (1.0, math.nan), (math.inf, -math.inf), (math.inf, 1.0)]:
        with pytest.raises(AssertionError, match=r"max \|a - b\| = "):
            compare("apart", a, b)
    with pytest.raises(
        AssertionError, match=r"apart: max \|a - b\| = 1 at number 4 of 6: a 4, b 5"
    ):
        compare("apart", X, X + (X == 4))
    with pytest.raises(AssertionError, match=r"the shapes differ: a \(2, 3\), b \(3, 2\)"):
        compare("turned", X, X.T)


RIGHT = [
    lambda x, k: x * x + k,
    lambda x, k: np.square(np.asarray(x)) + k,
    lambda x, k: (x.numpy() ** 2 + k).tolist(),
    lambda x, k: x.mul_(x).add_(k),  # in place: each call has its own copy
    lambda x, k: (x**2 + k)[None],
]


@pytest.mark.parametrize("answer", RIGHT)
def test_right_answers_in_every_style(square, answer, capsys):
    check("square", answer)
    assert capsys.readouterr().out == "square: correct, 2 cases, max |difference| <= 1e-09\n"


def test_a_stub_is_not_attempted(square, capsys):
    check("square", lambda x, k: ...)
    assert capsys.readouterr().out == "square: not attempted yet\n"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, k: 2 * x + k, "hint: x is doubled, not squared"),
        (lambda x, k: x**2, "hint: k is left out"),
        (lambda x, k: x**2 + k + 1e-6, r"max \|got - want\| = 1e-06"),
        (lambda x, k: None, "is a `return` missing"),
        (lambda x, k: "x squared", "not numbers but str: x squared"),
        (lambda x, k: x.sum(), r"the shapes differ: got \(\), want \(2, 3\)"),
        (lambda x, k: 0.0, "the shapes differ"),
        (lambda x, k: x, "is wrong"),
        (lambda x, k: x * math.nan, "is wrong"),
        (lambda x, k: torch.zeros(0), "the shapes differ"),
    ],
)
def test_wrong_answers(square, answer, message):
    with pytest.raises(AssertionError, match=message):
        check("square", answer)


def test_a_lucky_first_case_is_not_enough(square):
    with pytest.raises(AssertionError, match="case 2 of 2 is wrong"):
        check("square", lambda x, k: x**2 + 1)


def test_an_error_of_the_students_shows_itself(square):
    with pytest.raises(ZeroDivisionError):
        check("square", lambda x, k: 1 / 0)


def test_an_unknown_exercise_names_the_known():
    with pytest.raises(ValueError, match="no exercise 'dirxt'; there are .*pred_x0"):
        check("dirxt", lambda: 0)


# ---- every exercise of the course ---------------------------------------------------------


def cases(exercise):
    return list(exercise.cases(torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("name", EXERCISES)
def test_exercise(name, capsys):
    """The reference passes; a stub is no answer; constants and the inputs themselves are wrong;
    each slip is rejected, and its own hint names it."""
    exercise = EXERCISES[name]
    check(name, exercise.reference)
    assert ": correct, " in capsys.readouterr().out
    check(name, lambda *a: ...)
    assert capsys.readouterr().out == f"{name}: not attempted yet\n"
    assert len(cases(exercise)) >= 2 and len(exercise.slips) >= 3
    first = exercise.reference(*module._copies(cases(exercise)[0]))
    lazy = [lambda *a: first, lambda *a: 0.0, lambda *a: 1.0]
    count = len(inspect.signature(exercise.reference).parameters)
    lazy += [lambda *a, i=i: a[i] for i in range(min(count, len(cases(exercise)[0])))]
    for answer in lazy:
        with pytest.raises((AssertionError, TypeError, ValueError)):
            check(name, answer)
    for hint, slip in exercise.slips.items():
        with pytest.raises(AssertionError, match=re.escape(f"hint: {hint}")):
            check(name, slip)


def code_cells(path):
    cells = json.loads(path.read_text())["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def checks(path):
    return re.findall(r'^check\("(\w+)", (\w+)\)', "\n".join(code_cells(path)), re.M)


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_every_exercise_stands_in_one_notebook():
    asked = [name for path in NOTEBOOKS for name, _ in checks(path)]
    assert sorted(asked) == sorted(EXERCISES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_exercise_has_its_solution(path):
    solutions = path.parent / "solutions" / path.name
    assert checks(path) and checks(path) == checks(solutions)
    filled = "\n".join(code_cells(solutions))
    assert filled.count("### BEGIN SOLUTION") == filled.count("### END SOLUTION")
    assert filled.count("### BEGIN SOLUTION") == len(checks(path))
    for _, function in checks(path):
        stub = next(c for c in code_cells(path) if f"def {function}(" in c)
        assert "return ..." in stub and "BEGIN SOLUTION" not in stub
        head = stub[: stub.index(":\n", stub.index(f"def {function}("))]
        assert head[head.index("def ") :].split(") ->")[0] in filled

"""The exercises and their checker: what passes, what does not, and what it says."""

import contextlib
import cProfile
import json
import math
import pathlib
import re
import signal
import sys
import threading
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import rewrites
import torch

from minisd.samplers import plms
from minisd.teaching import guarded
from minisd.teaching.checking import Exercise, check, compare
from minisd.teaching.exercises import EXERCISES, unseen
from minisd.teaching.exercises import NOTEBOOKS as IN_NOTEBOOKS
from minisd.teaching.grading.data import encode
from minisd.teaching.verdicts import FLOAT32, copies, difference, numbers, verdict
from minisd.toy import GaussianMixture, IdealDenoiser

ROOT = pathlib.Path(__file__).parents[2]
X = torch.arange(6.0).double().reshape(2, 3)


def test_parts_of_different_sizes_end_where_they_should(monkeypatch):
    def halves(x):
        return x[:2], x[2:]

    cases = lambda g: [(torch.rand(5, generator=g).double() / 3,), (X[:5] / 3,)]  # noqa: E731
    slips = {"The first part has two": lambda x: (x[:1], x[1:]), "z": lambda x: 0 * x}
    exercise = Exercise(halves, cases, slips)
    drawn = exercise.drawn()
    for answer in (
        halves,
        lambda x: [x[:2].tolist(), x[2:].numpy()],
        lambda x: [x[None, :2], x[2:]],
    ):
        assert verdict(exercise, drawn, lambda i, f=answer: f(*drawn[i])).status == "correct"
    for answer in (lambda x: (x[:3], x[3:]), lambda x: x, lambda x: (x[:2], x[2:4], x[4:])):
        assert verdict(exercise, drawn, lambda i, f=answer: f(*drawn[i])).status == "wrong"
    found = verdict(exercise, drawn, lambda i: (drawn[i][0][:1], drawn[i][0][1:]))
    assert found.hint == "The first part has two" and "parts have other sizes" in found.text
    rounded = verdict(exercise, drawn, lambda i: tuple(x.float() for x in halves(*drawn[i])))
    assert rounded.hint == FLOAT32
    single = Exercise(lambda x: (x, 2 * x), lambda g: [(1.5,), (2.0,)], {})
    for answer in (lambda x: (torch.tensor([x]).double(), 2 * x), lambda x: [x, [2 * x]]):
        assert (
            verdict(single, [(1.5,), (2.0,)], lambda i, f=answer: f(1.5 + i / 2)).status
            == "correct"
        )


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
        AssertionError, match=r"apart: max \|a - b\| = 1 at \[1, 1\], number 4 of 6: a 4, b 5"
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
    lambda x, k: (x**2 + k) * (1 + 0j),
    lambda x, k: ((x**2 + k) * (1 + 0j)).conj().tolist(),
    lambda x, k: np.vectorize(Fraction)((x**2 + k).numpy()),
    lambda x, k: np.ascontiguousarray((x**2 + k).numpy()[..., ::-1])[..., ::-1],  # strides < 0
]


@pytest.mark.parametrize("answer", RIGHT)
def test_right_answers_in_every_style(square, answer, capsys):
    check("square", answer)
    assert capsys.readouterr().out == "square: correct, 2 cases, max |difference| <= 1e-09\n"


def test_the_reference_sees_nothing_of_what_an_answer_writes(monkeypatch, capsys):
    """Not into a list either, nor into a tensor inside one or inside a model."""
    exercise = Exercise(lambda xs: xs[0] + xs[1][0], lambda g: [([X, (X,)],), ([2 * X, (X,)],)])
    monkeypatch.setitem(EXERCISES, "sum", exercise)

    def answer(xs):
        a, (b,) = xs.pop(0), xs.pop(0)
        return a.add_(b)

    def spoils(xs):
        xs[1][0].mul_(0)
        xs[0] = xs[1][0]
        return xs[0]

    check("sum", answer)
    assert "sum: correct" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="case 1 of 2 is wrong"):
        check("sum", spoils)


def test_a_call_of_the_reference_is_noticed_wherever_it_hides(square):
    """In a later case only, or in a thread."""
    exercise = EXERCISES["square"]

    def later(x, k):
        return exercise.reference(x, k) if k == 0 else x * x + k

    def in_a_thread(x, k):
        found = []
        thread = threading.Thread(target=lambda: found.append(exercise.reference(x, k)))
        thread.start()
        thread.join()
        return found[0]

    for answer in (later, in_a_thread):
        with pytest.raises(AssertionError, match="which is the answer"):
            check("square", answer)
    assert sys.getprofile() is None and threading.getprofile() is None


def test_an_honest_answer_may_be_profiled(square, capsys):
    """From inside, from outside as %prun does, and by a function that was set before: it calls
    nothing of ours, and what was on is on again.
    """

    def inside(x, k):
        with cProfile.Profile():
            return x * x + k

    def switched_off(x, k):
        sys.setprofile(None)
        return x * x + k

    def plain(x, k):
        return x * x + k

    for answer in (inside, switched_off):
        check("square", answer)
    profile = cProfile.Profile()
    profile.runctx("check('square', plain)", {"check": check, "plain": plain}, {})
    seen = []
    profiler = lambda frame, event, _: seen.append(frame.f_code)  # noqa: E731
    sys.setprofile(profiler)
    try:
        check("square", plain)
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
    assert plain.__code__ in seen and capsys.readouterr().out.count("correct") == 4
    with cProfile.Profile(), pytest.raises(AssertionError, match="which is the answer"):
        check("square", lambda x, k: EXERCISES["square"].reference(x, k))


def by_hand(x, k):
    """As a notebook may define it."""
    return x * x + k


def test_a_function_of_the_notebook_may_be_the_answer(square, monkeypatch, capsys):
    exercise = replace(EXERCISES["square"], given=("by_hand", "of_no_cell"))
    monkeypatch.setitem(EXERCISES, "square", exercise)
    with pytest.raises(AssertionError, match="your function calls .*by_hand, which is the answer"):
        check("square", lambda x, k: by_hand(x, k))
    check("square", by_hand)  # a student's own, of that name
    monkeypatch.setitem(EXERCISES, "square", replace(exercise, allowed=("by_hand",)))
    check("square", lambda x, k: by_hand(x, k))
    assert capsys.readouterr().out.count("correct") == 2


def raises(x, k):
    """nbgrader's."""
    raise NotImplementedError()


def nothing(x, k):
    pass


def only_a_docstring(x, k):
    """Say it."""


def not_even_here(x, k):
    return raises(x, k)


STUBS = [
    lambda x, k: ...,
    lambda x, k: (..., x),
    lambda x, k: [x, ...],
    raises,
    nothing,
    only_a_docstring,
]


@pytest.mark.parametrize("stub", STUBS)
def test_a_stub_is_not_attempted(square, stub, capsys):
    check("square", stub)
    assert capsys.readouterr().out == "square: not attempted yet\n"


def test_what_is_no_stub(square):
    """An error of another function, or a `return` that was forgotten."""
    with pytest.raises(NotImplementedError):
        check("square", not_even_here)
    with pytest.raises(NotImplementedError):
        check("square", lambda x, k: torch.nn.Module()(x))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, k: 2 * x + k, "hint: x is doubled, not squared"),
        (lambda x, k: x**2, "hint: k is left out"),
        (lambda x, k: x**2 + k + 1e-6, r"max \|got - want\| = 1e-06"),
        (lambda x, k: print(x), "is a `return` missing"),
        (lambda x, k: "x squared", "must be real numbers, but it is of type str: x squared"),
        (lambda x, k: [str(v) for v in (x * x + k).flatten()], "it is of type str: "),
        (lambda x, k: np.array((x * x + k).tolist(), str), "it is of type ndarray"),
        (lambda x, k: np.array((x * x + k).tolist(), str).astype(object), "of type str: 1.0"),
        (lambda x, k: (x * x + k) * (1 + 5j), "it is complex, with a part of 130 i"),
        (lambda x, k: ((x * x + k) * (1 + 5j)).numpy(), "it is complex"),
        (lambda x, k: ((x * x + k) * (1 + 5j)).tolist(), "it is complex"),
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


def forgets_zero(x, k):
    y = x / int(k)
    return y


def loops(x, k):
    try:
        while True:
            k = k + 1
    except Exception:
        return x


def test_an_error_of_the_students_shows_its_line(square):
    with pytest.raises(RuntimeError) as error:
        check("square", lambda x, k: x @ x)
    assert "square: in case 1 of 2, line" in error.value.__notes__[0]
    line = forgets_zero.__code__.co_firstlineno + 1
    with pytest.raises(ZeroDivisionError) as error:
        check("square", lambda x, k: forgets_zero(1, 0))
    shown = f"line {line} of the cell, in forgets_zero: `y = x / int(k)`"
    assert error.value.__notes__ == [f"square: in case 1 of 2, {shown}"]
    assert all(frame.name != "_hint" for frame in error.traceback)


def test_a_loop_without_end_ends(square, monkeypatch):
    monkeypatch.setattr("minisd.teaching.checking.SECONDS", 0.2)
    start = time.monotonic()
    for answer in (loops, lambda x, k: time.sleep(60)):
        with pytest.raises(AssertionError, match="case 1 of 2 still ran after 0.2 seconds"):
            check("square", answer)
    assert time.monotonic() - start < 5
    with pytest.raises(AssertionError, match="in loops: `(while True:|k = k \\+ 1)`"):
        check("square", loops)
    assert signal.getsignal(guarded._ALARM) == signal.SIG_DFL
    check("square", lambda x, k: x * x + k)  # and the next one is as ever


def test_a_thread_has_no_alarm_but_an_answer(square, capsys):
    thread = threading.Thread(target=check, args=("square", lambda x, k: x * x + k))
    thread.start()
    thread.join()
    assert "square: correct" in capsys.readouterr().out


def test_a_blank_may_be_required(square):
    with pytest.raises(AssertionError, match="square: not attempted yet"):
        check("square", lambda x, k: ..., required=True)
    check("square", lambda x, k: (..., ...))


def test_the_case_and_the_place_are_shown(square):
    with pytest.raises(AssertionError) as error:
        check("square", lambda x, k: x**2 + k + (x == 4))
    assert str(error.value) == (
        "square: case 1 of 2 is wrong\n"
        "  called with x = a tensor (2, 3) of [0, 1, 2, ...], k = 1.0\n"
        "  max |got - want| = 1 at [1, 1], number 4 of 6: got 18, want 17\n"
        "  1 of 6 numbers differ\n"
        "  got [1, 2, 5, 10, 18, 26]\n"
        "  want [1, 2, 5, 10, 17, 26]"
    )


def test_a_name_or_an_answer_that_check_cannot_use():
    with pytest.raises(ValueError, match="no exercise 'dirxt'; did you mean 'dir_xt'"):
        check("dirxt", lambda: 0)
    with pytest.raises(ValueError, match="no exercise 'qqq'; the notebook's headings"):
        check("qqq", lambda: 0)
    for called in (X, ...):
        with pytest.raises(TypeError, match=r"itself, check\('pred_x0', my_pred_x0\)"):
            check("pred_x0", called)
    with pytest.raises(TypeError, match="odd: compare needs real numbers, .* of type str: a"):
        compare("odd", "a", 1.0)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda x, k: x * torch.tensor(0.3) + k, True),
        (lambda x, k: x.float() * 0.3 + k, True),
        (lambda x, k: np.float32(0.3) * x.numpy() + k, True),
        (lambda x, k: x * 0.3001 + k, False),
        (lambda x, k: 0.3 * x + k + 1e-4 * (x.abs() < 1e3), False),  # the small ones are wrong
        (lambda x, k: x * math.inf, False),
    ],
)
def test_float32_has_a_hint_of_its_own(answer, told, monkeypatch):
    exercise = Exercise(lambda x, k: 0.3 * x + k, lambda g: [(X, 0.25), (2 * X, 0.5)])
    monkeypatch.setitem(EXERCISES, "third", exercise)
    with pytest.raises(AssertionError) as error:
        check("third", answer)
    assert ("hint: right to seven digits" in str(error.value)) == told


DOUBLED = "x is doubled, not squared"


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x, k: 0.6 * x + k, DOUBLED),
        (lambda x, k: (0.6 * x + k).float(), DOUBLED),
        (lambda x, k: (0.6 * x + k) * (1 + 1e-6), DOUBLED),
        (lambda x, k: (0.6 * x + k) * 1.001, ""),
        (lambda x, k: 0.6 * x + (k or 9), DOUBLED),  # the next case may differ
        (lambda x, k: 0.6 * x + k if k else X[7], DOUBLED),  # or fail
        (lambda x, k: (0.3 * x**2).float() if k == 0 else 0.6 * x + k, DOUBLED),
        (lambda x, k: 0.3 * x**2 + k if k == 1 else 0.6 * x + k, ""),  # right where the slip is not
    ],
)
def test_a_slip_is_known_by_the_first_wrong_case(answer, hint, square, monkeypatch):
    exercise = Exercise(
        lambda x, k: 0.3 * x**2 + k,
        lambda g: [(X, 1.0), (X / 3, 0.0), (X / 7, 0.0)],
        {DOUBLED: lambda x, k: 0.6 * x + k},
    )
    monkeypatch.setitem(EXERCISES, "third", exercise)
    with pytest.raises((AssertionError, IndexError)) as error:
        check("third", answer)
    assert (f"hint: {DOUBLED}" in str(error.value)) == bool(hint)


def test_a_count_that_is_one_off_is_not_float32(monkeypatch):
    exercise = Exercise(lambda n: 859_520_964 + n, lambda g: [(0,), (1,)])
    monkeypatch.setitem(EXERCISES, "parameters", exercise)
    with pytest.raises(AssertionError) as error:
        check("parameters", lambda n: 859_520_965 + n)
    assert "float32" not in str(error.value)


@pytest.mark.filterwarnings("ignore:(Sparse|The PyTorch API of nested)")
@pytest.mark.parametrize("kind", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr])
def test_sparse_numbers_are_numbers(kind):
    compare("sparse", kind(X), X)
    with pytest.raises(TypeError, match="of type Tensor: nested"):
        compare("nested", torch.nested.nested_tensor([X, X[:1]]), X)


def test_a_list_that_is_too_deep_to_be_shown_is_told():
    deep = 1.0
    for _ in range(3000):
        deep = [deep]
    with pytest.raises(TypeError, match="of type list"):
        compare("deep", deep, 1.0)


# ---- every exercise of the course ---------------------------------------------------------


def judged(exercise, answer):
    cases = exercise.drawn()
    return verdict(exercise, cases, lambda i: answer(*copies(cases[i])))


@pytest.mark.parametrize("name", EXERCISES)
def test_exercise(name, capsys):
    """The reference is right, but no answer; nor is a stub; constants and the inputs themselves are
    wrong; each slip is rejected, and its own hint names it."""
    exercise = EXERCISES[name]
    assert judged(exercise, exercise.reference).status == "correct"
    assert exercise.reference in exercise.borrowed and plms in exercise.borrowed
    for ours in (exercise.reference, *filter(callable, exercise.given)):

        def calls(*case, ours=ours):
            with contextlib.suppress(Exception):  # it may want other arguments
                ours(*copies(case))
            return getattr(rewrites, name)(*case)

        with pytest.raises(AssertionError, match=f"{name}: your function calls .* is the answer"):
            check(name, calls)
    check(name, lambda *a: ...)
    assert capsys.readouterr().out == f"{name}: not attempted yet\n"
    cases = exercise.drawn()
    assert len(cases) >= 2 and len(exercise.slips) >= 3
    first = exercise.reference(*copies(cases[0]))
    lazy = [lambda *a: first, lambda *a: 0.0, lambda *a: 1.0]
    lazy += [lambda *a, i=i: a[i] for i in range(len(cases[0]))]
    for answer in lazy:
        with pytest.raises(AssertionError):
            check(name, answer)
    for hint, slip in exercise.slips.items():
        with pytest.raises(AssertionError, match=re.escape(f"hint: {hint}")):
            check(name, slip)


def single(value):
    """The same in float32."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.float()
    if isinstance(value, (tuple, list)):
        return type(value)(single(v) for v in value)
    if isinstance(value, IdealDenoiser):
        data = value.mixture
        means, weights = single(data.means), single(data.weights)
        return IdealDenoiser(
            GaussianMixture(means, data.std, weights, data.labels), single(value.ab)
        )
    return value


def in_float32(function):
    def answer(*case):
        try:
            found = numbers(function(*single(case)), parted=True)
        except RuntimeError as error:  # a schedule in float64 beside it
            assert "same dtype" in str(error)
            found = numbers(function(*case), parted=True)
        whole = (found == found.round()) | found.isnan()
        return found if whole.all() else found.float()

    return answer


@pytest.mark.parametrize("name", EXERCISES)
def test_float32_is_told_and_hides_no_slip(name):
    exercise = EXERCISES[name]
    found = judged(exercise, in_float32(exercise.reference))
    assert found.status == "correct" or found.hint == FLOAT32, found
    for hint, slip in exercise.slips.items():
        try:
            found = judged(exercise, in_float32(slip))
        except Exception:  # this slip cannot be made in float32
            continue
        assert found.status == "wrong" and found.hint in (hint, ""), (hint, found)


@pytest.mark.parametrize("name", EXERCISES)
def test_a_slip_that_is_not_known_gets_no_hint_of_another(name):
    """Unless the two give the same numbers in the case that is shown."""
    exercise = EXERCISES[name]
    cases = exercise.drawn()
    for hint, slip in exercise.slips.items():
        others = {h: s for h, s in exercise.slips.items() if h != hint}
        gave = [slip(*copies(case)) for case in cases]
        found = verdict(replace(exercise, slips=others), cases, gave.__getitem__)
        assert found.status == "wrong"
        if found.hint:
            shown = int(re.match(r"case (\d+)", found.text)[1]) - 1
            other = others[found.hint](*copies(cases[shown]))
            assert not difference(numbers(gave[shown]), numbers(other), exercise.tolerance), hint


def code_cells(path):
    cells = json.loads(path.read_text())["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def checks(path):
    return re.findall(r'^check\("(\w+)", (\w+)\)', "\n".join(code_cells(path)), re.M)


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_every_exercise_stands_in_one_notebook():
    """And in its order there: so are the grader's columns and the teacher's table."""
    asked = {path.stem: [name for name, _ in checks(path)] for path in NOTEBOOKS}
    assert asked == IN_NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_exercise_has_its_solution(path):
    solutions = path.parent / "solutions" / path.name
    assert checks(path) and checks(path) == checks(solutions)
    filled = "\n".join(code_cells(solutions))
    assert filled.count("### BEGIN SOLUTION") == filled.count("### END SOLUTION")
    assert filled.count("### BEGIN SOLUTION") == len(checks(path))
    for _, function in checks(path):
        stub = next(c for c in code_cells(path) if f"def {function}(" in c)
        assert stub.count("...  # your code") == stub.count("return ...") == 1
        assert "BEGIN SOLUTION" not in stub
        head = stub[: stub.index(":\n", stub.index(f"def {function}("))]
        assert head[head.index("def ") :].split(") ->")[0] in filled


def markdown(path):
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def bonus(path):
    """The open questions at a notebook's end, or those that a solution answers."""
    items = re.split(r"^\d\. ", markdown(path).split("## Bonus questions\n")[1], flags=re.M)[1:]
    return [" ".join(item.split("\n\n")[0].split()).strip("*") for item in items]


STILL_WITHOUT = ("00_start_here", "13_latent_diffusion", "16_real_weights")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_open_questions_at_the_end_have_answers(path):
    if path.stem not in STILL_WITHOUT:
        assert len(bonus(path)) >= 2
        assert bonus(path) == bonus(path.parent / "solutions" / path.name)


def heading(path, name):
    """The level that the notebook's text gives an exercise."""
    return re.findall(rf"`{name}`(?:\*\*)? \((easy|middle|hard)", markdown(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_levels_are_those_of_the_notebook(path):
    for name, _ in checks(path):
        exercise = EXERCISES[name]
        assert heading(path, name) == [exercise.level], name
        assert 10 < len(exercise.goal) < 80 and not exercise.goal.endswith("."), name


def as_numpy(value):
    return value.numpy() if isinstance(value, torch.Tensor) else value


def as_list(value):
    return value.tolist() if hasattr(value, "tolist") else value


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_solution_is_right_and_every_slip_named_on_fresh_cases(path, capsys):
    """With cases from other seeds and answers in numpy or lists; so the grader may draw its own."""
    names = {}
    for cell in code_cells(path.parent / "solutions" / path.name):
        exec(cell, names)
    for name, function in checks(path):
        exercise, answer = EXERCISES[name], names[function]
        check(name, answer)  # and nothing in it is borrowed
        for seed in (0, 1, 2**31 - 1):
            cases = exercise.drawn(seed) + unseen(name, seed)
            gave = [answer(*copies(case)) for case in cases]
            for style in (as_numpy, as_list):
                found = verdict(exercise, cases, lambda i, s=style, g=gave: s(g[i]))
                assert found.status == "correct", (name, seed, found)
        for hint, slip in exercise.slips.items():
            slipped = [slip(*copies(case)) for case in cases]
            found = verdict(exercise, cases, slipped.__getitem__)
            assert found.status == "wrong" and found.hint == hint, (name, hint, found)


@pytest.mark.parametrize("name", EXERCISES)
def test_a_rewrite_in_another_style_is_right(name):
    exercise, answer = EXERCISES[name], getattr(rewrites, name)
    cases = exercise.drawn() + unseen(name, 1)
    found = verdict(exercise, cases, lambda i: answer(*copies(cases[i])))
    assert found.status == "correct", found


def test_rewrites_use_nothing_of_ours():
    assert "minisd." not in pathlib.Path(rewrites.__file__).read_text()


def drawn(cases):
    return [json.dumps([encode(v) for v in case]) for case in cases]


@pytest.mark.parametrize("name", EXERCISES)
def test_a_table_of_the_answers_that_check_shows_is_no_answer(name):
    """Each run has as many cases of its own as check has, and of 40 runs none has only known."""
    known = drawn(EXERCISES[name].drawn())
    for seed in range(1, 41 if len(known) < 15 else 6):
        own = drawn(unseen(name, seed))
        assert len(own) >= len(known) and set(own) - set(known), seed
    if name != "ab_weights":  # three orders are all that it is asked for
        assert set(own) != set(drawn(unseen(name, 1)))


def test_the_exercise_that_teaching_md_adds():
    text = (ROOT / "docs" / "TEACHING.md").read_text()
    entry = re.search(r"```python\n(.*?)```", text, re.S)[1]
    [exercise] = eval("{" + entry + "}", {"torch": torch, "Exercise": Exercise}).values()
    assert judged(exercise, exercise.reference).status == "correct"
    for hint, slip in exercise.slips.items():
        assert judged(exercise, slip).hint == hint


def test_the_table_for_teachers_is_fresh():
    sys.path.insert(0, str(ROOT / "tools"))
    import exercise_table

    assert exercise_table.table() in (ROOT / "docs" / "TEACHING.md").read_text(), "`make index`"


def test_totals(capsys):
    """At least 60 exercises; every slip is named, which test_exercise sees one by one."""
    slips = sum(len(exercise.slips) for exercise in EXERCISES.values())
    assert len(EXERCISES) >= 60 and slips >= 3 * len(EXERCISES)
    assert {e.level for e in EXERCISES.values()} == {"easy", "middle", "hard"}

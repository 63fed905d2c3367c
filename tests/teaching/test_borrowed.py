"""What a student can call that is the answer is told as borrowed: in each exercise, each function
of minisd is called with the exercise's own arguments, in every order that its types allow.
"""

import ast
import contextlib
import inspect
import itertools
import json
import pathlib
import pkgutil
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import minisd
from minisd.schedules import alpha_bar
from minisd.steps import Step, last
from minisd.teaching.exercises import EXERCISES, NOTEBOOKS
from minisd.teaching.guarded import TooLong, time_limit
from minisd.teaching.verdicts import NotNumbers, copies, difference, numbers

ROOT = pathlib.Path(__file__).parents[2]
FILES = ("checkpoints", "command", "teaching", "tiny", "training", "__main__")


def functions() -> list[Callable]:
    """Every public function and class of minisd, but for what is or makes a network, reads files or
    trains."""
    found = {}
    for module in pkgutil.walk_packages(minisd.__path__, "minisd."):
        if module.name.split(".")[1] in FILES and module.name != "minisd.tiny.shapes":
            continue
        for name, value in vars(pkgutil.resolve_name(module.name)).items():
            if getattr(value, "__module__", "") == module.name and callable(value):
                made = (
                    value if inspect.isclass(value) else inspect.signature(value).return_annotation
                )
                network = inspect.isclass(made) and issubclass(made, torch.nn.Module)
                if not name.startswith("_") and not network:
                    found[f"{module.name}.{name}"] = value
    return list(found.values())


def cells(path: pathlib.Path) -> list[ast.Module]:
    found = json.loads(path.read_text())["cells"]
    return [ast.parse("".join(c["source"])) for c in found if c["cell_type"] == "code"]


def is_checked(node: ast.stmt) -> bool:
    """Whether it is a line check("name", function)."""
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and getattr(call.func, "id", "") == "check"


def stubs() -> dict[str, tuple[str, list[str]]]:
    """Each exercise's stub, and the names of its arguments."""
    found = {}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        nodes = [node for cell in cells(path) for node in cell.body]
        names = {n.name: [a.arg for a in n.args.args] for n in nodes if hasattr(n, "args")}
        for name, stub in (node.value.args for node in nodes if is_checked(node)):
            found[name.value] = stub.id, names[stub.id]
    return found


def of_the_notebook(name: str) -> list[Callable]:
    """What the exercise's notebook defines itself, with no more than its imports."""
    [path] = [ROOT / "notebooks" / f"{n}.ipynb" for n, own in NOTEBOOKS.items() if name in own]
    stub_names = [stub for stub, _ in STUBS.values()]
    names: dict = {"__name__": "notebook"}
    for node in (node for cell in cells(path) for node in cell.body):
        defined = isinstance(node, ast.FunctionDef) and node.name not in stub_names
        if defined or isinstance(node, (ast.Import, ast.ImportFrom)):
            with contextlib.suppress(NameError):  # its defaults are of the cells that are left out
                exec(compile(ast.Module([node], []), str(path), "exec"), names)
    return [f for f in names.values() if inspect.isfunction(f) and f.__module__ == "notebook"]


FUNCTIONS = functions()
STUBS = stubs()


def may_be(value, hint) -> bool:
    """Whether a value suits a parameter, as far as its annotation tells."""
    hint = str(hint)
    if isinstance(value, Tensor):
        return not any(word in hint for word in ("Callable", "str", "Config", "list[", "Sequence"))
    if callable(value):
        return "Callable" in hint or "_empty" in hint
    if isinstance(value, (list, tuple)):
        of_tensors = "Sequence[torch.Tensor]" in hint
        return of_tensors == isinstance(value[0], Tensor) and "Callable" not in hint
    if isinstance(value, str):
        return "str" in hint or "_empty" in hint
    if isinstance(value, int) and value > 5000:  # a count of parameters; lists of so many are slow
        return False
    return "Callable" not in hint and "list[" not in hint and "Sequence" not in hint


def orders(function: Callable, names: list[str], case: tuple) -> Iterator[tuple[int, ...]]:
    """The places in the case of arguments that the function may be called with: in the case's own
    order, in any order where they are few, and by the names that the two have in common.
    """
    parameters = inspect.signature(function).parameters.values()
    free = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    least = max(1, sum(p.default is p.empty for p in free))
    found = {}
    for k in range(least, min(len(free), len(case)) + 1):
        places = itertools.permutations if k < 4 else itertools.combinations
        found |= dict.fromkeys(places(range(len(case)), k))
        named = [[names.index(p.name)] if p.name in names else range(len(case)) for p in free[:k]]
        if sum(len(some) > 1 for some in named) < 3:
            found |= dict.fromkeys(o for o in itertools.product(*named) if len(set(o)) == k)
    for order in found:
        if all(may_be(case[i], p.annotation) for i, p in zip(order, free, strict=False)):
            yield order


def views(value) -> Iterator:
    """What a student may take of a value: itself, or a part of it."""
    if isinstance(value, Iterator):
        value = last(value)
    if isinstance(value, Step):
        yield from (value.x, value.x0, value.eps)
        return
    yield value
    if isinstance(value, (tuple, list)) and len(value) < 9:
        yield from (*value, value[::-1])


def cases(exercise, names: list[str]) -> Iterator[tuple[list[str], list[tuple], Callable]]:
    """The exercise's cases, and such as a student would make of them for minisd's functions: two
    times as a list, betas for ᾱ (and ᾱ again for what comes back).
    """
    own, as_it_is = exercise.drawn(), lambda value: value
    yield names, own, as_it_is
    first = own[0]
    whole = [i for i, v in enumerate(first) if type(v) is int]
    if len(whole) > 1 and whole == list(range(whole[0], whole[-1] + 1)) and callable(first[0]):
        a, b = whole[0], whole[-1] + 1
        packed = [(*c[:a], list(c[a:b]), *c[b:]) for c in own]
        yield [*names[:a], "times", *names[b:]], packed, as_it_is
    if len(first) == 1 and isinstance(first[0], Tensor):
        shares = all(c[0].ndim == 1 and 0 < c[0].min() and c[0].max() <= 1 for c in own)
        if shares and all((c[0][1:] < c[0][:-1]).all() for c in own):
            yield ["betas"], [(1 - ab[1:] / ab[:-1],) for (ab,) in own], alpha_bar


def answers(exercise_name: str) -> Iterator[tuple[Callable, str]]:
    """The functions that give the exercise's numbers in its cases, with how they are called."""
    exercise, names = EXERCISES[exercise_name], STUBS[exercise_name][1]
    wanted = [numbers(exercise.reference(*copies(case)), True) for case in exercise.drawn()]

    def right(value, i: int) -> bool:
        try:
            return not difference(numbers(value, True), wanted[i], max(exercise.tolerance, 1e-9))
        except NotNumbers:
            return False

    def given(function, order, case, turn) -> list:
        try:
            with contextlib.redirect_stdout(None):
                return [turn(view) for view in views(function(*[case[i] for i in order]))]
        except Exception:  # these arguments do not suit it
            return []

    for own_names, own, turn in cases(exercise, names):
        for function in [*FUNCTIONS, *of_the_notebook(exercise_name)]:
            try:
                with time_limit(1):
                    for order in orders(function, own_names, own[0]):
                        for j, view in enumerate(given(function, order, own[0], turn)):
                            if right(view, 0) and all(
                                right([*given(function, order, own[i], turn), *[None] * 9][j], i)
                                for i in range(1, len(own))
                            ):
                                yield function, ", ".join(own_names[i] for i in order)
            except TooLong:  # no answer in that time
                continue


@pytest.mark.parametrize("name", EXERCISES)
def test_what_can_be_called_for_an_answer_is_borrowed(name):
    exercise = EXERCISES[name]
    known = [*exercise.borrowed, *exercise.allowed]
    for function, how in answers(name):
        own = function.__name__ if function.__module__ == "notebook" else function
        assert own in known, f"{name}: given=({function.__name__},) for ({how})"


@pytest.mark.parametrize(
    ("name", "functions"),
    [
        ("plms_sampler", {"plms"}),
        ("improved_euler_step", {"plms", "s_pndm", "heun"}),
        ("zero_snr_alpha_bar", {"zero_terminal_snr"}),
        ("heun_step", {"heun_by_hand"}),
        ("eps_from_v", {"eps_from_v", "q_sample", "q_step"}),
    ],
)
def test_the_search_finds_what_is_there(name, functions):
    assert {f.__name__ for f, _ in answers(name)} == functions

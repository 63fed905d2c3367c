"""The `check(...)` calls of a notebook, read from its syntax tree: for the grader and the hand-out.

Strings and comments are no calls; IPython's own lines (%time, !pip, name?) break nothing.
"""

import ast
import re
import warnings
from collections.abc import Iterable
from typing import NamedTuple

LONGEST = 100_000  # characters of a cell; a longer one, and what is past MOST of all, is not parsed
MOST = 400_000
KEPT = 5  # answers to one exercise: the last ones
INNER = (ast.For, ast.AsyncFor, ast.While, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
INNER += (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
TIMED = re.compile(r"^([ \t]*)%(?:time|timeit|prun)[ \t]+(?=\w)", re.M)  # Python follows
MAGIC = re.compile(
    r"^([ \t]*)(?:(?:\w[\w, ]*=[ \t]*)?(?:%%?[A-Za-z]|!|\?).*|[\w.%]+\?+[ \t]*$)", re.M
)


class Call(NamedTuple):
    """A call of `check`: the exercise, the expression that gives the answer, the place."""

    exercise: str
    answer: str
    node: ast.Call


def parsed(source: str) -> ast.Module | None:
    """The syntax tree of a cell, IPython's lines left out; None where Python cannot read it."""
    if len(source) > LONGEST:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a stranger's backslashes
        for text in (source, MAGIC.sub(r"\1pass", TIMED.sub(_same_place, source))):
            try:
                return ast.parse(text)
            except Exception:  # a SyntaxError, or nested too deeply, or with a NUL
                continue
    return None


def _same_place(line: re.Match) -> str:
    """`%time f()` as `1;    f()`."""
    return f"{line[1]}1;".ljust(len(line[0]))


def calls(tree: ast.Module | None) -> tuple[list[Call], int]:
    """The calls of `check` in a tree in their order, and how many were not understood: those in a
    loop or a function, whose answers have gone when it ends, without an answer, or of a name that
    is no constant.
    """
    found, strange, stack = [], 0, [(tree, False)] if tree else []
    while stack:
        node, inner = stack.pop()
        inner = inner or isinstance(node, INNER)
        stack += [(child, inner) for child in ast.iter_child_nodes(node)]
        if not isinstance(node, ast.Call):
            continue
        if getattr(node.func, "id", getattr(node.func, "attr", "")) != "check":
            continue
        given = dict(zip(("name", "answer"), node.args, strict=False))
        given |= {keyword.arg: keyword.value for keyword in node.keywords}
        name = getattr(given.get("name"), "value", None)
        try:
            if inner or not isinstance(name, str) or isinstance(given["answer"], ast.Starred):
                raise KeyError
            found.append(Call(name, ast.unparse(given["answer"]), node))
        except (KeyError, ValueError, RecursionError):
            strange += 1
    return sorted(found, key=lambda call: (call.node.lineno, call.node.col_offset)), strange


def answers(cells: Iterable[str]) -> dict[str, list[str]]:
    """Exercise -> the different expressions that it was checked with, the last one first."""
    found, left = {}, MOST
    for cell in cells:
        if "check" not in cell or len(cell) > left:
            continue
        left -= len(cell)
        for name, answer, _ in calls(parsed(cell))[0]:
            own = found.setdefault(name, [])
            own[:] = [answer, *(a for a in own if a != answer)][:KEPT]
    return found

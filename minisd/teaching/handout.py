"""A class's copies of notebooks: `python -m minisd handout NOTEBOOKS... --out FOLDER`.

The functions that a `check` asks for are emptied to stubs (solutions notebooks may be given too),
and then called, to see that they answer nothing; outputs of the cells that name them are cleared,
links to the solutions are taken out, the rest stays as it is. With --nbgrader the same cells carry
nbgrader's marks, for the `source` folder of a course.
"""

import __future__

import ast
import itertools
import json
import pathlib
import re
import warnings

from .checking import SECONDS
from .exercises import EXERCISES
from .grading.calls import Call, calls, parsed
from .grading.jobs import POINTS
from .guarded import attempt, time_limit
from .verdicts import blank, copies

REGION = re.compile(
    r"^([ \t]*)### BEGIN SOLUTION.*\n(?:(?![ \t]*### (?:BEGIN|END) SOLUTION).*\n)*"
    r"[ \t]*### END SOLUTION.*$",
    re.M,
)
LINK = re.compile(r"\[([^\[\]\n]*)\]\([^()\s]*solutions/[^()\s]*\.ipynb[^()\s]*\)")
BLANK = "...  # your code"


def emptied(source: str, function: str) -> str:
    """A cell with the body of every `def` of a function a stub again, but for its docstring; a body
    that is a stub stays as it is. Raises ValueError for a cell that Python cannot read, or that
    gives the name in another way.
    """
    for _ in _defs(source, function):  # read anew each time: one may stand in another
        filled = [n for n in _defs(source, function) if not all(map(_is_blank, _statements(n)))]
        if filled:
            lines = source.split("\n")
            first, last, indent = _body(filled[0], lines)
            lines[first:last] = [indent + BLANK, indent + "return ..."]
            source = "\n".join(lines)
    return source


def _defs(source: str, function: str) -> list:
    """The definitions of a function in a cell, wherever they stand."""
    tree = parsed(source)
    if tree is None:
        raise ValueError(f"a cell with {function} cannot be read as Python")
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            found.append(node)
        names = [getattr(node, field, None) for field in ("name", "asname", "id")]
        if function in names and not isinstance(getattr(node, "ctx", None), ast.Load | ast.Del):
            if node not in found:
                raise ValueError(f"{function} is not only given by `def`; the rest would stay")
    return sorted(found, key=lambda node: node.lineno)


def _statements(node: ast.FunctionDef) -> list[ast.stmt]:
    return node.body[ast.get_docstring(node) is not None :]


def _is_blank(statement: ast.stmt) -> bool:
    """Whether it is `...`, `return ...` or `y = ...`."""
    value = getattr(statement, "value", None)
    values = value.elts if isinstance(value, ast.Tuple) else [value]
    return all(isinstance(v, ast.Constant) and v.value is ... for v in values)


def _body(node: ast.FunctionDef, lines: list[str]) -> tuple[int, int, str]:
    """First line and past the last of a function's body and the comments around it, without its
    docstring; its indent.
    """
    body = _statements(node)
    if not body or body[0].lineno == node.lineno:
        raise ValueError(f"{node.name} needs a body on lines of its own")
    first, last = body[0].lineno - 1, node.end_lineno
    indent = re.match(r"\s*", lines[first])[0]

    def comments(lines: list[str]) -> int:
        around = itertools.takewhile(re.compile(rf"{indent}\s*#|\s*$").match, lines)
        return max((i for i, line in enumerate(around, 1) if line.strip()), default=0)

    above, below = lines[node.lineno : first][::-1], lines[last:]
    return first - comments(above), last + comments(below), indent


def _prove(node: ast.FunctionDef, name: str) -> None:
    """Call a function of the copy, without its decorators and defaults, on the cases of `check`.
    Raises ValueError if it answers one of them.
    """
    node.decorator_list, given, names = [], node.args, {}
    given.defaults = [ast.Constant(None) for _ in given.defaults]
    given.kw_defaults = [value and ast.Constant(None) for value in given.kw_defaults]
    tree = ast.fix_missing_locations(ast.Module([node], []))
    exec(compile(tree, "copy", "exec", __future__.annotations.compiler_flag), names)
    for case in EXERCISES[name].drawn():
        try:
            with time_limit(SECONDS):
                got = attempt(names[node.name], copies(case))
        except Exception as error:
            raise ValueError(f"{node.name} of the copy fails on {name}: {error}") from None
        if not blank(got):
            raise ValueError(f"{node.name} of the copy still answers {name}")


def hand_out(notebook: dict, nbgrader: bool = False) -> dict:
    """A class's copy of a notebook (its JSON). Raises ValueError where a check's function is in no
    cell or cannot be emptied, or a name is no exercise's; warns of a check that was not understood.
    """
    notebook = json.loads(json.dumps(notebook))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells):
        cell["metadata"].pop("nbgrader", None)
        tree = parsed(_source(cell))
        found, strange = calls(tree)
        if strange or (tree is None and re.search(r"\bcheck\s*\(", _source(cell))):
            told = f"code cell {number + 1} has a check that was not understood"
            warnings.warn(f"{told}; see that no answer is left in it", stacklevel=2)
        for call in found:
            if call.exercise not in EXERCISES:
                raise ValueError(f"there is no exercise {call.exercise!r}")
            stub = _empty(cells, call)
            _clear(cell)
            if nbgrader:
                _mark(stub, cell, call)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            _set(cell, LINK.sub(r"\1", _source(cell)))
        elif cell["cell_type"] == "code" and not nbgrader:  # which takes them out itself
            _set(cell, REGION.sub(rf"\1{BLANK}", _source(cell)))
    return notebook


def _empty(cells: list[dict], call: Call) -> dict:
    """Empty the function that a check asks for, in all cells; gives the last cell that has it."""
    function, stub = call.answer, None
    if not function.isidentifier():
        raise ValueError(f"check({call.exercise!r}, {function}) must name a function, to empty it")
    for cell in cells:
        if not re.search(rf"\b{function}\b", _source(cell)):
            continue
        _clear(cell)
        given = rf"\b(def|class|as)\s+{function}\b|\b{function}\s*[,=:]"
        if parsed(_source(cell)) is None and not re.search(given, _source(cell)):
            continue
        _set(cell, emptied(_source(cell), function))
        for node in _defs(_source(cell), function):
            _prove(node, call.exercise)
            stub = cell
    if stub is None:
        raise ValueError(f"no cell has the function {function} that a check asks for")
    return stub


def _source(cell: dict) -> str:
    return "".join(cell["source"])


def _clear(cell: dict) -> None:
    cell["outputs"], cell["execution_count"] = [], None


def _set(cell: dict, source: str) -> None:
    if source != _source(cell):
        cell["source"] = source.splitlines(keepends=True)


def _mark(stub: dict, check: dict, call: Call) -> None:
    """nbgrader's marks: the stub a region to fill, the check locked, with points, and no points
    for a blank.
    """
    name, function, _ = call
    if stub is check or "nbgrader" in check["metadata"] | stub["metadata"]:
        raise ValueError(f"for nbgrader {function} and its check need cells of their own")
    lines = _source(stub).split("\n")
    first, last, indent = _body(_defs(_source(stub), function)[-1], lines)
    body = [line for line in lines[first:last] if not line.lstrip().startswith("### ")]
    region = [indent + "### BEGIN SOLUTION", *body, indent + "### END SOLUTION"]
    _set(stub, "\n".join([*lines[:first], *region, *lines[last:]]))
    node = next(c.node for c in calls(parsed(_source(check)))[0] if c.exercise == name)
    lines = _source(check).encode().split(b"\n")
    head, tail = lines[node.lineno - 1][: node.col_offset], lines[node.end_lineno - 1]
    made = f'check("{name}", {function}, required=True)'.encode() + tail[node.end_col_offset :]
    lines[node.lineno - 1 : node.end_lineno] = [head + made]
    _set(check, b"\n".join(lines).decode())
    marks = {"schema_version": 3, "task": False, "cell_type": "code"}
    graded = {"grade": True, "solution": False, "locked": True}
    filled = {"grade": False, "solution": True, "locked": False, "grade_id": name}
    graded |= {"grade_id": f"check-{name}", "points": POINTS[EXERCISES[name].level]}
    stub["metadata"]["nbgrader"], check["metadata"]["nbgrader"] = marks | filled, marks | graded


def validate(notebook: dict) -> bool:
    """Ask nbgrader's own validator, which raises its errors; False where it is not installed."""
    try:
        import nbformat
        from nbgrader.nbgraderformat import MetadataValidator
    except ImportError:
        return False
    MetadataValidator().validate_nb(nbformat.from_dict(notebook))
    return True


def copy_notebook(
    path: pathlib.Path, target: pathlib.Path, nbgrader: bool = False
) -> tuple[str, list[str]]:
    """Write a class's copy of a notebook file. Gives what is told of the copy, and the warnings.

    Raises ValueError where the target is there already, or the file is no notebook or cannot be
    handed out.
    """
    if target.exists():
        raise ValueError(f"{target} is there already; delete it, or give another folder for --out")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)  # for each notebook anew
            copy = hand_out(json.loads(path.read_bytes()), nbgrader)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no notebook") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    checked = validate(copy) if nbgrader else None
    text = json.dumps(copy, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    target.write_text(text, encoding="utf-8")
    valid = {None: "", True: ", valid for nbgrader", False: ", nbgrader is not here to check it"}
    return f"{text.count('# your code')} blanks{valid[checked]}", [str(w.message) for w in told]

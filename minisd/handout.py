"""A class's copies of notebooks: `python -m minisd.handout NOTEBOOKS... --out FOLDER`.

The functions that a `check` asks for are emptied to stubs (solutions notebooks may be given too),
outputs of these cells and of the checks are cleared, the rest stays as it is. With --nbgrader the
same cells carry nbgrader's marks, for the `source` folder of a course.
"""

import argparse
import ast
import json
import pathlib
import re
import sys

from .exercises import EXERCISES
from .grading.jobs import POINTS

CHECK = re.compile(r'^check\(\s*["\'](\w+)["\']\s*,\s*(\w+)\s*\)\s*$', re.M)
REGION = re.compile(r"^([ \t]*)### BEGIN SOLUTION[^\n]*\n.*?### END SOLUTION[^\n]*$", re.M | re.S)
BLANK = "...  # your code"


def emptied(source: str, function: str) -> str:
    """A cell with the body of `function` a stub again; a cell that holds a stub is not changed.

    A region between ### BEGIN SOLUTION and ### END SOLUTION is the blank, or else the whole body
    but its docstring. Raises ValueError for a cell that Python cannot read.
    """
    if REGION.search(source):
        return REGION.sub(rf"\1{BLANK}\n\1return ...", source)
    lines = source.split("\n")
    first, last, indent = _body(source, function)
    own = "\n".join(lines[first:last])
    if BLANK in own and re.search(r"^ +return \.\.\.", own, re.M):
        return source
    return "\n".join([*lines[:first], indent + BLANK, indent + "return ...", *lines[last:]])


def _body(source: str, function: str) -> tuple[int, int, str]:
    """First line and past the last of a function's body, without its docstring; its indent."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"the cell of {function} cannot be read: {error}") from None
    node = next(n for n in tree.body if getattr(n, "name", None) == function)
    body = node.body[ast.get_docstring(node) is not None :]
    if not body or body[0].lineno == node.lineno:
        raise ValueError(f"{function} needs a body on lines of its own")
    return body[0].lineno - 1, node.end_lineno, " " * body[0].col_offset


def hand_out(notebook: dict, nbgrader: bool = False) -> dict:
    """A class's copy of a notebook (its JSON). Raises ValueError where a check's function is in no
    cell, or a name is no exercise's.
    """
    notebook = json.loads(json.dumps(notebook))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        for name, function in CHECK.findall("".join(cell["source"])):
            if name not in EXERCISES:
                raise ValueError(f"there is no exercise {name!r}")
            stub = _stub(cells, function)
            _set(stub, emptied("".join(stub["source"]), function))
            _clear(stub)
            _clear(cell)
            if nbgrader:
                _mark(stub, cell, name, function)
    return notebook


def _stub(cells: list[dict], function: str) -> dict:
    for cell in cells:
        if re.search(rf"^def {function}\(", "".join(cell["source"]), re.M):
            return cell
    raise ValueError(f"no cell has the function {function} that a check asks for")


def _clear(cell: dict) -> None:
    cell["outputs"], cell["execution_count"] = [], None


def _set(cell: dict, source: str) -> None:
    cell["source"] = source.splitlines(keepends=True)


def _mark(stub: dict, check: dict, name: str, function: str) -> None:
    """nbgrader's marks: the stub a region to fill, the check locked, with points, and no points
    for a blank.
    """
    source = "".join(stub["source"])
    lines = source.split("\n")
    first, last, indent = _body(source, function)
    region = [indent + "### BEGIN SOLUTION", *lines[first:last], indent + "### END SOLUTION"]
    _set(stub, "\n".join([*lines[:first], *region, *lines[last:]]))
    call = f'check("{name}", {function}, required=True)'
    _set(check, CHECK.sub(call, "".join(check["source"])))
    marks = {"schema_version": 3, "task": False, "cell_type": "code"}
    stub["metadata"]["nbgrader"] = marks | {
        "grade_id": name,
        "grade": False,
        "solution": True,
        "locked": False,
    }
    check["metadata"]["nbgrader"] = marks | {
        "grade_id": f"check-{name}",
        "grade": True,
        "solution": False,
        "locked": True,
        "points": POINTS[EXERCISES[name].level],
    }


def validate(notebook: dict) -> bool:
    """Ask nbgrader's own validator, which raises its errors; False where it is not installed."""
    try:
        import nbformat
        from nbgrader.nbgraderformat import MetadataValidator
    except ImportError:
        return False
    MetadataValidator().validate_nb(nbformat.from_dict(notebook))
    return True


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m minisd.handout", description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the copies")
    parser.add_argument("--nbgrader", action="store_true", help="mark the cells for nbgrader")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    for path in given.notebooks:
        target = given.out / path.name
        if target.resolve() == path.resolve():
            parser.error(f"{path} would be written over: --out must be another folder")
        try:
            copy = hand_out(json.loads(path.read_text(encoding="utf-8")), given.nbgrader)
        except (OSError, ValueError, KeyError) as error:
            parser.error(f"{path}: {error}")
        checked = validate(copy) if given.nbgrader else None
        text = json.dumps(copy, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        target.write_text(text, encoding="utf-8")
        told = {True: ", valid for nbgrader", False: ", nbgrader is not here to check it", None: ""}
        print(f"{target}: {text.count('# your code')} blanks{told[checked]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

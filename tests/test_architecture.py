"""docs/ARCHITECTURE.md is true: what it names exists, and the code takes the journeys it tells."""

import ast
import importlib
import itertools
import pathlib
import re
import sys
import threading

import pytest
import submissions

from minisd import samplers, steps
from minisd.__main__ import main
from minisd.pipeline.menu import SAMPLERS, Sampler
from minisd.teaching import check

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
ANSWER = """def my_pred_x0(x_t, eps, ab_t):
    return (x_t - (1 - ab_t) ** 0.5 * eps) / ab_t**0.5"""


def found(name: str):
    """The module that holds a dotted name, and what is called so there."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            module = here = importlib.import_module(".".join(["minisd", *parts[:n]]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            here = getattr(here, part)
        return module, here
    raise ModuleNotFoundError(name)


def journey(first: str) -> list[str]:
    """The names of the numbered list whose first line has this name."""
    lists = re.split(r"^(?=1\. )", PAGE, flags=re.M)[1:]
    names = [re.findall(r"^\d+\. \[`([\w.]+)`\]", text, re.M) for text in lists]
    return next(own for own in names if own[0] == first)


class Passed:
    """While it is entered, the names of minisd's functions as they are called, in all threads.

    A function inside a function goes by the outer one's name: cfg's `guided` is `guidance.cfg`.
    """

    def __init__(self):
        self.names = []

    def __enter__(self):
        threading.setprofile(self.note)
        sys.setprofile(self.note)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)
        threading.setprofile(None)

    def note(self, frame, event, _):
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith("minisd."):
            function = frame.f_code.co_qualname.split(".<locals>")[0]
            function = "sampler" if function == "_walk" else function  # what its sampler runs
            self.names.append(f"{module.removeprefix('minisd.')}.{function}")

    def missing(self, wanted: list[str]) -> str:
        """The first wanted name that was not passed after those before it; "" if all were."""
        rest = iter(self.names)
        return next((name for name in wanted if name not in rest), "")


def test_what_the_page_names_is_there():
    links = re.findall(r"\[`([\w.]+)`\]\(\.\./([\w/.]+\.py)\)", PAGE)
    assert len(links) > 50 and len(links) == PAGE.count("[`")
    for name, file in links:
        module, here = found(name)
        assert pathlib.Path(module.__file__) == ROOT / file, name
        assert getattr(here, "__module__", module.__name__) == module.__name__, name
    for first in ("__main__.main", "teaching.checking.check", "command.tasks.grade"):
        assert len(journey(first)) > 5


def test_a_prompt_becomes_a_picture_by_these_functions(tmp_path):
    words = ["a red ring", "--sampler", "ddim", "--steps", "2", "--quiet"]
    words += ["--out", str(tmp_path / "ring.png")]
    with Passed() as passed:
        assert main(words) == 0
    assert not passed.missing(journey("__main__.main"))
    assert passed.missing(journey("__main__.main")[::-1])  # the order counts


def test_an_answer_becomes_a_mark_by_these_functions(tmp_path, capsys):
    names = {}
    exec(ANSWER, names)
    with Passed() as passed:
        check("pred_x0", names["my_pred_x0"])
    assert not passed.missing(journey("teaching.checking.check"))

    (tmp_path / "class" / "anna").mkdir(parents=True)
    cells = ["from minisd.teaching import check", ANSWER, 'check("pred_x0", my_pred_x0)']
    book = tmp_path / "class" / "anna" / "05_ddim.ipynb"
    book.write_text(submissions.notebook(cells))
    with Passed() as passed:
        assert (
            main(["grade", str(tmp_path / "class"), "--out", str(tmp_path / "out"), "--jobs", "1"])
            == 0
        )
    elsewhere = ("teaching.grading.runner.", "teaching.grading.kernel.")  # in other processes
    here = journey("command.tasks.grade")
    here = [name for name in here if not name.startswith(elsewhere)]
    assert len(here) == 12 and not passed.missing(here)
    assert ',"correct",' in (tmp_path / "out" / "answers.csv").read_text()
    assert "pred_x0: correct" in capsys.readouterr().out


def test_a_sampler_is_one_function_and_one_name(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", PAGE, re.S)[1]
    names = {**vars(samplers), **vars(steps), "pairwise": itertools.pairwise}
    exec(code, names)
    monkeypatch.setitem(SAMPLERS, "midpoint", Sampler(names["midpoint"]))
    words = ["a red ring", "--sampler", "midpoint", "--steps", "3", "--quiet"]
    with Passed() as passed:
        assert main([*words, "--out", str(tmp_path / "ring.png")]) == 0
    assert passed.names.count("models.unet.UNet.forward") == 1 + 2 * 2  # one to leave zero SNR


# ---- the rooms ----------------------------------------------------------------------------

TABLE = PAGE.split("| room | may import |")[1].split("\n\n")[0]
ROWS = dict(re.findall(r"^\| ([\w\\ ]+) \| (.*) \|$", TABLE.replace("\\", ""), re.M))
MATHS = {"schedules", "equations", "clocks", "prediction", "steps", "samplers", "noise", "guidance"}
MATHS |= {"losses", "toy"}


def test_the_table_has_every_room():
    rooms = {p.stem for p in (ROOT / "minisd").iterdir() if p.suffix == ".py" or p.is_dir()}
    assert rooms - {"__init__", "__pycache__"} == ({*ROWS} - {"the maths"}) | MATHS


@pytest.mark.parametrize(
    "path", sorted((ROOT / "minisd").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_room_stands_on_those_of_its_row(path):
    place = path.relative_to(ROOT / "minisd").with_suffix("").parts
    if place == ("__init__",):
        return
    row = ROWS["the maths" if place[0] in MATHS else place[0]]
    allowed = {place[0], *(MATHS if "the maths" in row else ())}
    allowed |= {room for room in ROWS if re.search(rf"\b{room}\b", row)}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == len(place):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in [name.split(".")[0] for name in names]:
                assert name in allowed or name == "__version__", f"{path.name} imports {name}"

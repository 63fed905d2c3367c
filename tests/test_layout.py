"""The shape of the project: which module may import which, what notebooks and README hold."""

import ast
import importlib
import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MODULES = sorted((ROOT / "minisd").rglob("*.py"))
# The rules of the rooms: what of minisd each may import. A file at the top of minisd/ is a room.
MATHS = {"clocks", "equations", "guidance", "losses", "noise", "prediction", "samplers"}
MATHS |= {"schedules", "steps", "toy"}
BELOW = MATHS | {"checkpoints", "models", "pipeline", "text", "training"}  # all that tiny stands on
MAY_IMPORT = {
    "schedules": set(),
    "equations": set(),
    "clocks": {"equations", "schedules"},
    "prediction": {"clocks", "equations", "schedules"},
    "steps": {"clocks", "equations", "prediction", "schedules"},
    "samplers": {"equations", "prediction", "schedules", "steps"},
    "noise": {"equations", "prediction", "schedules"},
    "guidance": {"clocks", "equations", "prediction", "schedules"},
    "losses": {"equations", "prediction", "schedules"},
    "toy": {"schedules"},
    "models": set(),
    "text": set(),
    "checkpoints": {"models"},
    "training": {"checkpoints"},
    "pipeline": {"checkpoints", "models", "text"} | MATHS,
    "tiny": BELOW,
    "teaching": BELOW | {"tiny"},
    "command": BELOW | {"teaching", "tiny", "__init__"},
    "__main__": {"command"},
    "__init__": set(),
}
RUNTIME = {
    "torch",
    "numpy",
    "matplotlib",
    "einops",
    "safetensors",
    "tqdm",
    "IPython",
    "PIL",
    "minisd",
}
# The grader runs notebooks: it talks to Jupyter's kernels, with what JupyterLab itself is made of.
GRADER = {"jupyter_client", "zmq", "psutil", "nbformat", "nbgrader"}
WITH_JUPYTER = ("teaching/grading/", "teaching/handout.py")  # where GRADER may be imported


def here(path):
    return path.relative_to(ROOT / "minisd").as_posix()


def named(path):
    """A file's dotted name: minisd/tiny/__init__.py is minisd.tiny."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


BY_NAME = {named(path): path for path in MODULES}


def room(module):
    """The first name below minisd; what stands in minisd/__init__.py is its own room."""
    return [*module.split("."), "__init__"][1]


def imports(path, nodes=None):
    """(module, name) of all that a file imports, or of what some of its statements do."""
    package = named(path).split(".")[: None if path.name == "__init__.py" else -1]
    for node in nodes or ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{module}.{alias.name}" in BY_NAME  # from . import viz
                yield (f"{module}.{alias.name}", "") if whole else (module, alias.name)


def circle(edges):
    """Nodes that lead back to the first of them, or [] where no edges do."""
    done = set()

    def follow(node, path):
        if node in path:
            return [*path[path.index(node) :], node]
        for further in sorted(edges.get(node, ())) if node not in done else ():
            if found := follow(further, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(edges) if (found := follow(node, []))), [])


def wings():
    return [p for p in MODULES if p.name == "__init__.py" and p.parent.parent.name == "minisd"]


@pytest.mark.parametrize("path", MODULES, ids=here)
def test_a_room_imports_what_its_rule_names(path):
    third = RUNTIME | (GRADER if here(path).startswith(WITH_JUPYTER) else set())
    mine = room(named(path))
    for module, name in imports(path):
        if module.split(".")[0] != "minisd":
            top = module.split(".")[0]
            assert top in third | set(sys.stdlib_module_names), f"{here(path)} imports {module}"
        elif room(module) != mine:
            assert room(module) in MAY_IMPORT[mine], f"{here(path)} imports {module}"
            own = [*module.split("."), name] if name != "__version__" else []
            assert not any(n.startswith("_") for n in own), f"{here(path)} imports {module} {name}"


def test_every_room_has_a_rule_and_none_lets_a_circle_in():
    assert {room(module) for module in BY_NAME} == set(MAY_IMPORT)
    assert circle(MAY_IMPORT) == []
    assert [r for r, may in MAY_IMPORT.items() if "command" in may] == ["__main__"]
    assert [r for r, may in MAY_IMPORT.items() if "teaching" in may] == ["command"]


def test_no_module_imports_itself_by_way_of_others():
    edges = {}
    for name, path in BY_NAME.items():
        body = ast.parse(path.read_text()).body
        edges[name] = {module for module, _ in imports(path, body) if module in BY_NAME}
    assert circle(edges) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


@pytest.mark.parametrize("path", wings(), ids=here)
def test_each_wing_says_what_it_is_and_who_imports_it(path):
    says = ast.get_docstring(ast.parse(path.read_text()))
    assert 3 <= len(says.splitlines()) <= 10 and "May import: " in says
    by = says.split("Imported by: ")[1]
    for other in MODULES:
        if room(named(other)) not in (path.parent.name, "__main__"):
            if any(room(module) == path.parent.name for module, _ in imports(other)):
                assert room(named(other)) in by or "everything" in by, here(other)


@pytest.mark.parametrize("path", MODULES, ids=here)
def test_nothing_is_unpickled_and_no_seed_is_global(path):
    text = path.read_text()
    for word in ("pickle", "torch.load", "torch.manual_seed", "np.random.seed", ".cuda("):
        assert word not in text


@pytest.mark.parametrize("path", MODULES, ids=here)
def test_public_functions_are_documented(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node) or "/exercises/" in here(path), node.name


# ---- notebooks ----------------------------------------------------------------------------

NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
NOTEBOOKS = [p for p in NOTEBOOKS if "checkpoint" not in str(p) and not p.name.startswith("look-")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT)))
def test_notebooks_are_stored_as_run(path):
    """nbval compares stored outputs; a cell stored without any is not compared, so all must be run,
    in order, without errors, small, and with few cells left out of the comparison."""
    assert str(ROOT) not in path.read_text()  # no path of the machine it ran on
    notebook = json.loads(path.read_text())
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    ignored = 0
    for cell in code:
        tags, source = cell["metadata"].get("tags", []), "".join(cell["source"])
        assert set(tags) <= {"nbval-ignore-output", "raises-exception"}
        ignored += "nbval-ignore-output" in tags
        if "nbval-ignore-output" in tags:  # only the call that answers a student
            assert re.fullmatch(r'check\("\w+", \w+\)', source.strip()), source
        for output in cell["outputs"]:
            assert output["output_type"] != "error" or "raises-exception" in tags
            assert output.get("name") != "stderr" and "image/svg+xml" not in output.get("data", {})
        assert not ("print(" in source and not cell["outputs"] and "def " not in source)
    assert ignored < len(code) / 2
    assert path.stat().st_size <= 500_000
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_notebook_begins_with_at_most_six_lines_of_code(path):
    cells = json.loads(path.read_text())["cells"]
    source = "".join(next(c for c in cells if c["cell_type"] == "code")["source"])
    assert len(source.splitlines()) <= 6
    assert "minisd.teaching." not in source  # the wing's face hands out what every notebook needs


def test_notebooks_are_light_together():
    assert sum(p.stat().st_size for p in NOTEBOOKS) <= 8_000_000


# ---- README and set-up --------------------------------------------------------------------

README = (ROOT / "README.md").read_text()


def test_the_index_of_equations_is_fresh():
    command = [sys.executable, ROOT / "tools" / "equation_index.py", "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_index_of_equations_has_one_line_a_row():
    tables = (ROOT / "docs" / "EQUATIONS.md").read_text().split("\n## ")[1:]
    assert len(tables) == 33
    for table in tables:  # a paper's name, its title, and the rows, none of them broken
        _, title, *rows = [line for line in table.splitlines() if line]
        assert "arxiv.org" in title and rows[0].startswith("| in the paper") and len(rows) > 2
        for row in rows:
            assert row.startswith("|") and row.endswith("|") and row.count("|") == 5, row


def test_every_sampler_is_in_the_index_of_equations():
    from minisd.samplers import __all__ as names

    index = (ROOT / "docs" / "EQUATIONS.md").read_text()
    for name in {*names} - {"MULTISTEP", "Multistep", "Step", "fixed_large", "fixed_small", "last"}:
        assert f"[`samplers.{name}`](../minisd/samplers.py)" in index, name


def test_every_equation_is_shown_in_a_notebook():
    sys.path.insert(0, str(ROOT / "tools"))
    import equation_index

    code = equation_index.notebooks()
    for shown, _, function in equation_index.functions():
        if shown.startswith("equations.") and equation_index.citations(function):
            assert equation_index.shown_in(function, code), f"no notebook shows {shown}"


PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "minisd").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_paths_of_a_page_lead_somewhere(page):
    text = page.read_text()
    for target, _, title in re.findall(r"\]\((?!https?:)([^)#]+)(#([^)]*))?\)", text):
        there = page.parent / target
        assert there.exists(), target
        headings = re.findall(r"^#+ (.*)", there.read_text(), re.M) if title else []
        assert not title or title in [h.lower().replace(" ", "-") for h in headings], title
    for path in re.findall(r"\b(?:minisd|tests|tools|benchmarks|docs)/[\w/]+\.\w+", text):
        assert (ROOT / path).exists(), path


def test_the_readme_shows_every_notebook():
    linked = set(re.findall(r"notebooks/(\w+\.ipynb)", README))
    assert linked == {p.name for p in (ROOT / "notebooks").glob("*.ipynb")}


def test_the_readme_and_the_notice_lead_to_what_ships():
    assert "(LICENSE)" in README and "(NOTICE)" in README
    project = (ROOT / "pyproject.toml").read_text()
    assert 'license = "MIT"' in project and 'license-files = ["LICENSE", "NOTICE"]' in project
    notice = (ROOT / "NOTICE").read_text()
    for path in re.findall(r"minisd/[\w/.-]+\w", notice):
        assert (ROOT / path).is_file(), path
    shipped = {p.name for p in (ROOT / "minisd" / "text" / "merges").glob("*.gz")}
    assert shipped == set(re.findall(r"\w+\.txt\.gz", notice))


def test_the_example_of_the_readme_runs():
    names = {}
    exec(re.search(r"```python\n(.*?)```", README, re.S)[1], names)
    assert names["x"].shape == (8, 2) and names["x"].isfinite().all()


def test_what_is_installed_is_what_is_pinned():
    pins = re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(), re.M)
    assert len(pins) >= 10
    for name, version in pins:
        assert importlib.metadata.version(name).split("+")[0] == version


def test_conda_installs_the_same():
    text = (ROOT / "environment.yml").read_text()
    assert "- -r requirements.txt" in text and "- -e ." in text and "- pip:" in text


def test_ci_runs_the_readmes_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text() and "    make test" in README


TOOLS = sorted([*(ROOT / "tools").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")])


@pytest.mark.parametrize("path", TOOLS, ids=lambda p: p.name)
def test_tools_import_what_is_there(path):
    """No other test runs them, and a module that moves must not leave them behind."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "minisd":
            module = importlib.import_module(node.module)
            for alias in node.names:
                there = hasattr(module, alias.name)
                assert there or importlib.import_module(f"{node.module}.{alias.name}"), alias.name

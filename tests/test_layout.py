"""The shape of the project: which module may import which, what notebooks and README hold."""

import ast
import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MODULES = sorted((ROOT / "minisd").rglob("*.py"))
ALLOWED = {  # what of minisd each may import; the rest may import anything but viz and check
    "schedules": set(),
    "configs": set(),
    "equations": {"equations"},
    "models": {"models", "configs"},
    "prediction": {"equations", "schedules"},
    "samplers": {"equations", "schedules", "prediction"},
    "noise": {"equations", "schedules", "prediction"},
    "guidance": {"equations", "schedules", "prediction"},
    "losses": {"equations", "schedules", "prediction"},
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
TEACHING = (
    "check",
    "exercises",
    "grade",
    "grading",
    "handout",
)  # no other module imports exercises


def top(path):
    return path.relative_to(ROOT / "minisd").with_suffix("").parts[0]


def imports(path):
    """Absolute names of everything a file imports, at the top or inside a function."""
    package = ("minisd", *path.relative_to(ROOT / "minisd").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    for name in imports(path):
        parts = name.split(".")
        allowed = RUNTIME | set(sys.stdlib_module_names)
        allowed |= GRADER if top(path) in ("grading", "handout") else set()
        assert parts[0] in allowed, f"{path.name} imports {name}"
        if parts[0] != "minisd" or len(parts) < 2:
            continue
        if top(path) in ALLOWED:
            assert parts[1] in ALLOWED[top(path)], f"{path.name} imports {name}"
        if top(path) not in TEACHING:
            assert parts[1] not in ("viz", "check", "exercises"), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_unpickled_and_no_seed_is_global(path):
    text = path.read_text()
    for word in ("pickle", "torch.load", "torch.manual_seed", "np.random.seed", ".cuda("):
        assert word not in text


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_functions_are_documented(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node) or top(path) == "exercises", node.name


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
    assert path.stat().st_size <= 300_000
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"


def test_notebooks_are_light_together():
    assert sum(p.stat().st_size for p in NOTEBOOKS) <= 3_000_000


# ---- README and set-up --------------------------------------------------------------------

README = (ROOT / "README.md").read_text()


def test_the_index_of_equations_is_fresh():
    command = [sys.executable, ROOT / "tools" / "equation_index.py", "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_index_of_equations_has_one_line_a_row():
    tables = (ROOT / "docs" / "EQUATIONS.md").read_text().split("\n## ")[1:]
    assert len(tables) == 9
    for table in tables:  # a paper's name, its title, and the rows, none of them broken
        _, title, *rows = [line for line in table.splitlines() if line]
        assert "arxiv.org" in title and rows[0].startswith("| in the paper") and len(rows) > 2
        for row in rows:
            assert row.startswith("|") and row.endswith("|") and row.count("|") == 5, row


def test_every_sampler_is_in_the_index_of_equations():
    from minisd.samplers import __all__ as names

    index = (ROOT / "docs" / "EQUATIONS.md").read_text()
    for name in {*names} - {"Step", "fixed_large", "fixed_small", "last"}:
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

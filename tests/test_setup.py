"""Set-up on the machines that people have: what is declared, what make does, odd settings."""

import ast
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import supported  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(), re.M))
README = (ROOT / "README.md").read_text()


# ---- what is declared ---------------------------------------------------------------------


def plain(name):
    return name.lower().replace("_", "-")


def imported(*folders):
    """Distributions that the files of these folders import, and a file that does."""
    names = importlib.metadata.packages_distributions()
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in getattr(node, "names", [])]
            if isinstance(node, ast.ImportFrom):
                modules = [] if node.level else [node.module]
            for module in modules if isinstance(node, ast.Import | ast.ImportFrom) else []:
                for distribution in names.get(module.split(".")[0], []):
                    yield plain(distribution), path.relative_to(ROOT).as_posix()


def test_the_package_declares_what_it_imports():
    """All of it in dependencies; what the notebooks and the grader need may be in that extra."""
    needed = set(map(plain, PROJECT["dependencies"]))
    extra = needed | set(map(plain, PROJECT["optional-dependencies"]["notebooks"]))
    for name, path in imported("minisd"):
        may = extra if re.match("minisd/teaching/", path) else needed
        assert name in may | {"minisd", "nbgrader"}, f"{path} imports {name}"
    assert {"pillow", "numpy"} <= needed and {"pyzmq", "psutil", "nbformat"} <= extra - needed


def test_what_is_imported_is_pinned():
    pinned = set(map(plain, PINS))
    for name, path in imported("minisd", "tests", "tools", "benchmarks"):
        assert name in pinned | {"minisd", "nbgrader", "tokenizers"}, f"{path} imports {name}"
    for name in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["notebooks"]:
        assert plain(name) in pinned


# ---- which Python, which computer ---------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "system", "machine", "said"),
    [
        ((3, 11, 0), "Linux", "x86_64", None),
        ((3, 14, 2), "Linux", "aarch64", None),
        ((3, 12, 1), "Darwin", "arm64", None),
        ((3, 12, 1), "Windows", "AMD64", None),
        ((2, 7, 18), "Linux", "x86_64", "Python 3.11 to 3.14 and this is Python 2.7"),
        ((3, 10, 0), "Linux", "x86_64", "Python 3.11 to 3.14 and this is Python 3.10"),
        ((3, 15, 0), "Darwin", "arm64", "Python 3.11 to 3.14 and this is Python 3.15"),
        ((3, 12, 1), "Darwin", "x86_64", "Macs with an Intel processor"),
        ((3, 12, 1), "Windows", "ARM64", "WSL"),
    ],
)
def test_a_computer_without_wheels_is_told_so(version, system, machine, said):
    found = supported.reason(version, system, machine)
    assert said is None if found is None else said in found


def test_the_readme_says_the_same():
    oldest, newest = supported.dotted(supported.OLDEST), supported.dotted(supported.NEWEST)
    assert f"Python {oldest} to {newest}" in README and f'"Python {newest}' not in README
    assert PROJECT["requires-python"] == f">={oldest}"
    assert re.findall(r"torch==([\d.]+)", README) == [PINS["torch"]]
    for words in ("Intel", "Windows on ARM", "--allow-root"):
        assert words in README.split("## The notebooks")[0], words


# ---- make ---------------------------------------------------------------------------------

HERE = supported.dotted(sys.version_info)
PYTHON = """#!/bin/sh
echo "$@" >> calls
case "$*" in
  *"-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  "-c import sys"*) echo VERSION ;;
  tools/*) exec REAL "$@" ;;
esac
"""


@pytest.fixture
def make(tmp_path):
    """`make` in a copy of what it reads, with a Python that only notes what it is called for."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml", "tools/supported.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)

    def run(*words, version=HERE, user=1000):
        for name, text in {
            "python": PYTHON.replace("REAL", sys.executable).replace("VERSION", version),
            "id": f"#!/bin/sh\necho {user}\n",
        }.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        path = f"{tmp_path}:{os.environ['PATH']}"
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "MAKEFLAGS")}
        result = subprocess.run(
            ["make", *words],
            cwd=tmp_path,
            env=environment | {"PATH": path},
            capture_output=True,
            text=True,
        )
        calls = tmp_path / "calls"
        said = result.stdout + result.stderr
        return result.returncode, said, calls.read_text() if calls.exists() else ""

    return run


def test_an_interrupted_installation_goes_on(make, tmp_path):
    """Python and pip are in .venv, and bin/pip and all other programs are not."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    code, said, calls = make(".venv/.installed", "PYTHON=./python")
    assert code == 0, said
    assert "-m pip install --disable-pip-version-check -q -r requirements.txt" in calls
    assert os.listdir(tmp_path / ".venv" / "bin") == ["python"]
    assert (tmp_path / ".venv" / ".installed").exists()


def test_another_python_than_that_of_the_environment_is_told_so(make, tmp_path):
    assert make(".venv/.installed", "PYTHON=./python")[0] == 0
    old = PYTHON.replace("VERSION", "3.9").replace("REAL", "true")
    (tmp_path / ".venv" / "bin" / "python").write_text(old)
    code, said, _ = make(".venv/.installed", "PYTHON=./python")
    assert code != 0 and ".venv was made with Python 3.9 and PYTHON is now" in said
    assert "make clean" in said
    assert make("clean", "PYTHON=./python")[0] == 0  # and that advice works
    assert make(".venv/.installed", "PYTHON=./python")[0] == 0


@pytest.mark.parametrize(("user", "asked"), [(0, True), (1000, False)])
def test_jupyter_is_allowed_to_start_as_root(make, user, asked):
    code, said, _ = make("-n", "lab", "PYTHON=./python", user=user)
    assert code == 0 and ("--allow-root" in said) == asked and "jupyter lab" in said


# ---- odd settings -------------------------------------------------------------------------


def server(**settings):
    """This environment with such settings, and without those that name folders."""
    gone = ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "PYTEST_ADDOPTS")
    kept = {key: value for key, value in os.environ.items() if key not in gone}
    return kept | {"PYTHONPATH": str(ROOT)} | settings


def notebook():
    """Its second cell shows a picture."""
    sources = "from minisd.teaching import viz\nviz.setup()", "viz.plt.plot([1, 2])\nviz.plt.show()"
    cells = [nbformat.v4.new_code_cell(source, execution_count=1) for source in sources]
    shown = {"text/plain": "<Figure size 900x360 with 1 Axes>", "image/png": ""}
    cells[1].outputs = [nbformat.v4.new_output("display_data", shown)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)


@pytest.mark.parametrize("backend", ["Agg", "TkAgg"])
def test_pictures_appear_where_another_backend_is_named(backend):
    """For all programs of a server: one that draws files, or one that has no display there."""
    book = notebook()
    NotebookClient(book, timeout=100).execute(env=server(MPLBACKEND=backend))
    assert book.cells[0].outputs == []
    assert [sorted(o.data) for o in book.cells[1].outputs] == [["image/png", "text/plain"]]


def test_notebooks_pass_where_the_home_folder_cannot_be_written(tmp_path):
    """Neither of that nor of fonts is anything said in a notebook's output."""
    nbformat.write(notebook(), tmp_path / "a.ipynb")
    shutil.copyfile(ROOT / "conftest.py", tmp_path / "conftest.py")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval", "-q", "-p", "no:cacheprovider", "a.ipynb"],
        cwd=tmp_path,
        env=server(HOME="/dev/null", MPLBACKEND="Agg"),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and "2 passed" in result.stdout, result.stdout

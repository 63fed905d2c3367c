"""That the notebooks can fail: a digit changed in a stored output, a function body, an answer."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
NAME = "02_reverse_posterior.ipynb"  # the quickest one


def nbval(notebook, package=ROOT):
    """The output of `pytest --nbval notebook`, and whether it passed."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval", "-q", "-p", "no:cacheprovider", notebook],
        capture_output=True,
        text=True,
        cwd=notebook.parent,
        env={**os.environ, "PYTHONPATH": str(package)},
    )
    return result.stdout + result.stderr, result.returncode == 0


def copied(source, target):
    """The content without the mode: in a checkout that cannot be written, nor could the copy."""
    if source.is_file():
        return shutil.copyfile(source, target)
    return shutil.copytree(source, target, copy_function=shutil.copyfile)


@pytest.fixture
def copy(tmp_path):
    return copied(ROOT / "notebooks" / NAME, tmp_path / NAME)


def test_a_copy_can_be_written_where_the_checkout_cannot(tmp_path):
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "a").write_text("a")
    (tmp_path / "checkout" / "a").chmod(0o444)
    copied(tmp_path / "checkout", tmp_path / "b")
    copied(tmp_path / "checkout" / "a", tmp_path / "a")
    for path in (tmp_path / "b" / "a", tmp_path / "a"):
        assert path.read_text() == "a" and path.stat().st_mode & 0o200


def test_a_changed_digit_fails(copy):
    notebook = json.loads(copy.read_text())
    outputs = [o for c in notebook["cells"] for o in c.get("outputs", []) if "text" in o]
    output = next(o for o in outputs if re.search(r"\d", "".join(o["text"])))
    digit_up = lambda found: str((int(found[0]) + 1) % 10)  # noqa: E731
    output["text"] = re.sub(r"\d", digit_up, "".join(output["text"]), count=1)
    copy.write_text(json.dumps(notebook))
    output, passed = nbval(copy)
    assert not passed and "1 failed" in output


def test_a_changed_function_body_fails(copy, tmp_path):
    """Not even its value: `show` has stored the source."""
    copied(ROOT / "minisd", tmp_path / "minisd")
    source = tmp_path / "minisd" / "equations" / "ddpm.py"
    before = "return (1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s)"
    assert before in source.read_text()
    source.write_text(
        source.read_text().replace(before, before.replace("(1 - ab_s)", "(1.0 - ab_s)"))
    )
    output, passed = nbval(copy, tmp_path)
    assert not passed and "1 failed" in output


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("return 1 / (1 / v_1 + 1 / v_2) * (m_1 / v_1 + m_2 / v_2), 1 / (1 / v_1 + 1 / v_2)", True),
        ("return (m_1 + m_2) / 2, v_1 + v_2", False),
    ],
)
def test_a_students_answer(copy, answer, right):
    """Right: the notebook stays green, though the stored output says "not attempted yet"."""
    notebook = json.loads(copy.read_text())
    cell = next(c for c in notebook["cells"] if "def my_fuse_gaussians" in "".join(c["source"]))
    cell["source"] = "".join(cell["source"]).replace("return ...", answer)
    copy.write_text(json.dumps(notebook))
    output, passed = nbval(copy)
    assert passed == right, output
    assert right or "fuse_gaussians" in output

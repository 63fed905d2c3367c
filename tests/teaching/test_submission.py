"""What was handed in: which file is whose, what is not read and why, which answers are asked."""

import json
import os
import re
import time
import types
import unicodedata

import pytest
import submissions

from minisd.__main__ import main
from minisd.teaching.grading import calls, submission
from minisd.teaching.grading.calls import answers
from minisd.teaching.grading.data import read_answers
from minisd.teaching.grading.jobs import Settings, grade, package_files
from minisd.teaching.grading.kernel import ask
from minisd.teaching.grading.submission import Submission, collect, content

TEXT = submissions.notebook(["def my_sigma(b, ab, eta):\n    return 1"])


def put(folder, *places, text=TEXT):
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text)


# ---- whose it is --------------------------------------------------------------------------

LAYOUTS = {
    "folders": {"anna/02_reverse_posterior.ipynb": "anna", "cleo/ps1/x.ipynb": "cleo"},
    "files": {"bert_02_reverse_posterior.ipynb": "bert", "05_ddim_José.ipynb": "José"},
    "weeks": {
        "anna/ps1/x.ipynb": "anna",
        "anna/ps2/y.ipynb": "anna",
        "bert/ps1/x.ipynb": "bert",
    },
    "notebooks' folders": {"05_ddim/anna.ipynb": "anna", "anna/05_ddim/x.ipynb": "anna"},
    "sections": {
        "group1/anna/05_ddim.ipynb": "anna",
        "group1/bert/05_ddim.ipynb": "bert",
        "group2/carl/05.ipynb": "carl",
    },
    "two of a name": {
        "group1/anna/05_ddim.ipynb": "group1/anna",
        "group1/bert/05_ddim-1.ipynb": "bert",
        "group2/anna/05_ddim.ipynb": "group2/anna",
    },
    "sections, and a file beside them": {
        "group1/anna/05_ddim.ipynb": "anna",
        "group1/bert/05_ddim.ipynb": "bert",
        "05_ddim.ipynb": "returned",
    },
    "one who has a notebook twice": {
        "anna/ps1/05_ddim.ipynb": "anna",
        "bert/ps1/05_ddim.ipynb": "bert",
        "cleo/old/05_ddim.ipynb": "cleo",
        "cleo/new/05_ddim.ipynb": "cleo",
    },
    "names like Canvas's": {
        "anna/report_2024_1001_05_ddim.ipynb": "anna",
        "bert/report_2024_1001_05_ddim.ipynb": "bert",
        "week 1/doejane_12345_67890_05_ddim.ipynb": "doejane_12345",
        "week 1/doejohn_12346_67891_05_ddim.ipynb": "doejohn_12346",
    },
    "Canvas": {
        "doejane_12345_67890_05_ddim.ipynb": "doejane_12345",
        "doejane_12345_67999_05_ddim-1.ipynb": "doejane_12345",
        "doejane_LATE_12345_70001_06_pndm_plms-2.ipynb": "doejane_12345",
        "doejohn_12346_67891_05_ddim.ipynb": "doejohn_12346",
    },
    "Moodle": {
        "Jane Doe_4711_assignsubmission_file_/05_ddim.ipynb": "Jane Doe_4711",
        "week 2/Jane Doe_4711_assignsubmission_file_/06_pndm_plms.ipynb": "Jane Doe_4711",
    },
    "copies": {
        "anna_05_ddim (1).ipynb": "anna",
        "anna_05_ddim-Copy1.ipynb": "anna",
        "anna_05_ddim - Copy.ipynb": "anna",
        "bert/05_ddim (2).ipynb": "bert",
        "05_ddim (1).IPYNB": "returned",
    },
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_whose_notebook_it_is(name, tmp_path):
    root = tmp_path / "returned"
    put(root, *LAYOUTS[name])
    found, unread = collect([root])
    assert {s.name: s.student for s in found} == LAYOUTS[name] and not unread
    assert {content(s).notebook for s in found} == {"05_ddim"}


def test_one_name_in_two_spellings_is_one_student(tmp_path):
    for form in ("NFC", "NFD"):
        put(tmp_path, unicodedata.normalize(form, "José") + f"/05_ddim {form}.ipynb")
    assert {s.student for s in collect([tmp_path])[0]} == {"José"}


def test_arguments(tmp_path):
    put(tmp_path, "anna/05.ipynb", "bert/05.ipynb", "anna/.ipynb_checkpoints/05.ipynb")
    one = tmp_path / "anna/05.ipynb"
    assert [s.student for s in collect([one])[0]] == ["anna"]
    assert len(collect([tmp_path, one])[0]) == 2
    with pytest.raises(ValueError, match="no file or folder"):
        collect([tmp_path / "nobody"])


def test_arguments_that_have_a_name_in_common_are_kept_apart(tmp_path, monkeypatch):
    """As `returned/*` from a shell, or a folder for each group."""
    monkeypatch.chdir(tmp_path)
    put(tmp_path, "in/anna/hw.ipynb", "in/bert/hw.ipynb", "in/cleo/x.txt", "in/dora/05.ipynb")
    found, unread = collect([f"in/{name}" for name in ("anna", "bert", "cleo", "dora")])
    assert [s.student for s in found] == ["dora", "in/anna/hw", "in/bert/hw"]
    assert unread == [("in/cleo", "no notebook is in this folder")]
    put(tmp_path, "g1/anna/05.ipynb", "g2/anna/05.ipynb", "g2/bert/05.ipynb", "g2/anna/06.ipynb")
    wanted = ["anna", "bert", "g1/anna", "g2/anna"]
    assert [s.student for s in collect(["g1", "g2", "g2/anna/05.ipynb"])[0]] == wanted


def test_the_tables_do_not_lie_among_what_is_handed_in(tmp_path, capsys):
    put(tmp_path, "anna/05.ipynb")
    for out in (tmp_path, tmp_path / "marks", tmp_path / "anna" / "marks"):
        assert main(["grade", str(tmp_path), "--out", str(out)]) == 1
        assert (
            "--out must lie outside" in capsys.readouterr().err
            and len(list(tmp_path.iterdir())) == 1
        )


# ---- what is not read ---------------------------------------------------------------------


def test_what_is_not_read_is_told(tmp_path):
    put(tmp_path, "anna/05.zip", "bert/05.IPYNB", "cleo/05.ipynb.txt", "dora/05_ddim.json")
    put(tmp_path, "eve/05_ddim.py", "fred/thanks.txt", "gina/05.ipynb", "gina/data.csv")
    put(tmp_path, "__MACOSX/bert/._05.ipynb", "gina/._05.ipynb")
    (tmp_path / "hugo").mkdir()
    (tmp_path / "gina" / "data").mkdir()
    found, unread = collect([tmp_path])
    assert [s.name for s in found] == ["bert/05.IPYNB", "gina/05.ipynb"]
    wanted = {
        "anna/05.zip": "it is packed; unpack it",
        "cleo/05.ipynb.txt": "its name does not end in .ipynb",
        "dora/05_ddim.json": "its name does not end in .ipynb",
        "eve/05_ddim.py": "its name does not end in .ipynb",
        "fred": "no notebook is in this folder",
        "hugo": "no notebook is in this folder",
        "__MACOSX/bert/._05.ipynb": "macOS's notes on a file, not the file",
        "gina/._05.ipynb": "macOS's notes on a file, not the file",
    }
    assert dict(unread) == wanted


def test_a_student_of_a_section_without_a_notebook_is_told(tmp_path):
    put(tmp_path, "g1/anna/05.ipynb", "g1/bert/05.ipynb", "g1/cleo/x.txt", "g1/anna/data/x.txt")
    assert collect([tmp_path])[1] == [("g1/cleo", "no notebook is in this folder")]


def test_no_folder_is_too_deep(tmp_path):
    put(tmp_path, "anna/05.ipynb")
    deep = [tmp_path / "b"]
    while len(deep) < 1100:
        deep[-1].mkdir()
        deep.append(deep[-1] / "b")
    found, unread = collect([tmp_path])
    assert [s.student for s in found] == ["anna"] and unread[0].name == "b"
    for folder in deep[-2::-1]:  # pytest's own way to delete it calls itself, too
        folder.rmdir()


@pytest.mark.skipif(os.name != "posix", reason="links, pipes and names of bytes")
def test_no_name_on_the_disk_ends_the_run(tmp_path):
    """A link to a classmate's work, to itself, to a device, to a folder; a pipe; bytes."""
    put(tmp_path, "bob/02.ipynb", "eve/x.txt")
    (tmp_path / "eve" / "02.ipynb").symlink_to("../bob/02.ipynb")
    (tmp_path / "eve" / "loop.ipynb").symlink_to("loop.ipynb")
    (tmp_path / "eve" / "zero.ipynb").symlink_to("/dev/zero")
    (tmp_path / "eve" / "all").symlink_to("../bob")
    (tmp_path / "zed").symlink_to("bob")
    os.mkfifo(tmp_path / "eve" / "pipe.ipynb")
    raw = os.path.join(os.fsencode(tmp_path), b"m\xfcller")
    try:
        os.mkdir(raw)
    except OSError:  # macOS takes UTF-8 only
        pytest.skip("no such names here")
    with open(os.path.join(raw, b"02_\xe9.ipynb"), "w") as file:
        file.write(TEXT)
    found, unread = collect([tmp_path])
    assert [(s.student, s.name) for s in found] == [
        ("bob", "bob/02.ipynb"),
        ("m\\xfcller", "m\\xfcller/02_\\xe9.ipynb"),
    ]
    links = ("eve/02.ipynb", "eve/loop.ipynb", "eve/zero.ipynb", "eve/all", "zed")
    link, plain = "it is a link; hand in the file itself", "it is no plain file"
    assert dict(unread) == dict.fromkeys(links, link) | {"eve/pipe.ipynb": plain}
    given = [tmp_path / "bob", tmp_path / "zed", tmp_path / "eve/02.ipynb"]  # as from a shell's *
    assert [s.student for s in collect(given)[0]] == ["bob"] and len(collect(given)[1]) == 2
    assert [s.student for s in collect([tmp_path / "zed"])[0]] == ["zed"]  # a teacher's own link


def test_what_is_not_read_is_in_the_tables(tmp_path, capsys):
    put(tmp_path, "in/anna/05.zip", "in/<b>/x.txt")
    assert main(["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    assert "not read: anna/05.zip: it is packed; unpack it" in capsys.readouterr().out
    for name in ("index.html", "table.csv", "answers.csv"):
        text = (tmp_path / "out" / name).read_text()
        assert "anna/05.zip" in text and "it is packed" in text
    assert "<li>&lt;b&gt;: no notebook" in (tmp_path / "out" / "index.html").read_text()


# ---- what a file holds --------------------------------------------------------------------


def only(tmp_path, text, name="anna_05_ddim.ipynb"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return content(Submission(path, "anna", name))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"cells": 3}', "\0" * 99, "[" * 99999, '{"cells": [{}]}', '"05"']
)
def test_a_broken_file_is_a_row(tmp_path, text):
    found = only(tmp_path, text)
    assert found.notebook == "05_ddim" and "the file is no notebook" in found.broken


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_a_file_of_windows_editors_is_read(tmp_path, encoding):
    found = only(tmp_path, TEXT.encode(encoding), "a.ipynb")
    assert found.notebook == "05_ddim" and not found.broken


def test_an_old_notebook_is_read(tmp_path):
    cells = [{"cell_type": "code", "input": ["def my_sigma(b, ab, eta):\n", "    return 1"]}]
    found = only(tmp_path, json.dumps({"worksheets": [{"cells": cells}]}), "a.ipynb")
    assert found.notebook == "05_ddim" and found.functions["sigma"] == ["my_sigma"]


def test_a_file_that_is_too_large_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "MOST", 99)
    monkeypatch.setattr(submission, "read_cells", None)
    assert only(tmp_path, TEXT).broken.startswith("the file has more than 0 MB")


def test_two_notebooks_in_one_file_are_told(tmp_path):
    cells = ['check("sigma", f)', 'check("dir_xt", g)', 'check("kl_gaussians", h)']
    found = only(tmp_path, submissions.notebook(cells), "a.ipynb")
    assert found.notebook == "05_ddim" and found.note.endswith("another notebook: kl_gaussians")


def test_of_two_notebooks_in_equal_parts_the_name_decides(tmp_path):
    found = only(tmp_path, submissions.notebook(['check("sigma", f)', 'check("kl_gaussians", h)']))
    assert found.notebook == "05_ddim"


# ---- calls of check -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ('check("f", g)', ["g"]),
        ("x = 1; check('f', g)  # mine", ["g"]),
        ('check("f", g, required=True)', ["g"]),
        ('check(name="f", answer=g)', ["g"]),
        ('check("f", answer=lambda x: (x, 1))', ["lambda x: (x, 1)"]),
        ('minisd.teaching.check("f", obj.method)', ["obj.method"]),
        ('check(\n    "f",\n    functools.partial(g, 2),\n)', ["functools.partial(g, 2)"]),
        ('if a:\n    with b:\n        try:\n            check("f", g)\n        except E: 0', ["g"]),
        ('"""\ncheck("f", old)\n"""\ncheck("f", g)', ["g"]),
        ('# check("f", old)\nprint("check(\'f\', old)")', []),
        ('check("f", one)\ncheck("f", two)\ncheck("f", one)', ["one", "two"]),
        ('%matplotlib inline\n!pip install x\nx = !ls\ncheck?\ncheck("f", g)', ["g"]),
        ('%%time\ncheck("f", g)', ["g"]),
        ('x = 1\n%time check("f", g)', ["g"]),
        ('a = (7\n     % b)\ncheck("f", g)', ["g"]),
        ('for g in (a, b):\n    check("f", g)', []),  # what g was is gone
        ('def try_it(g):\n    check("f", g)', []),
        ('self._check("f", g)\ncheck(name, g)\ncheck("f")\ncheck(*both)\ncheck()', []),
        ('check("f", g', []),
        ('check("f", g)\0', []),
    ],
)
def test_calls_are_found(cell, expected):
    assert answers([cell]).get("f", []) == expected


def test_a_cell_that_python_cannot_read_costs_itself():
    assert answers(['check("a", f)', 'check("b", g', 'check("c", h)']) == {"a": ["f"], "c": ["h"]}


def test_a_check_of_no_exercise_is_no_matter(tmp_path):
    found = only(tmp_path, submissions.notebook(['check("sigma", f)', 'check("qqq", g)']))
    assert found.functions["sigma"] == ["f", "my_sigma"] and "qqq" not in found.functions


def test_the_last_answers_are_asked():
    found = answers([f'check("f", g{i})' for i in range(99)])["f"]
    assert found == [f"g{i}" for i in range(98, 98 - calls.KEPT, -1)]


@pytest.mark.parametrize(
    "cell",
    [
        "\n" * 400_000,
        " \n" * 400_000 + "check(",
        "check(" * 200_000,
        "a" + ".b" * 40_000 + "\ncheck",
        "%" * 99_000 + "check",
        "x, " * 33_000 + "check",
        "lambda:" * 14_000 + "check",
        "check('f'," * 3_000,
        "check('f', g)\n" * 400_000,
        "(" * 50_000 + "check",
        "check(\n" + " " * 90_000 + "x",
    ],
    ids=lambda cell: cell[:9].strip(),
)
def test_no_cell_takes_long_to_read(cell):
    start = time.process_time()
    assert answers(['check("f", g)', cell]) == {"f": ["g"]}
    assert time.process_time() - start < 3  # the slowest of them 0.3 s


FORMS = {
    "fuse_gaussians": 'check("fuse_gaussians", lambda *a: the_fuse_gaussians(*a))',
    "both_variances": 'check(name="both_variances", answer=the_both_variances)',
    "x0_from_posterior_mean": "class S:\n    def f(self, *a):\n"
    "        return the_x0_from_posterior_mean(*a)\n\n\n"
    'obj = S()\ncheck("x0_from_posterior_mean", obj.f)',
    "posterior_eps_coef": "import functools\n"
    'check("posterior_eps_coef", functools.partial(the_posterior_eps_coef))',
    "posterior_covariance": 'check("posterior_covariance", the_posterior_covariance)\n'
    'def other(*a): return 0.0\n"""\ncheck("posterior_covariance", old)\n"""\n'
    'check("posterior_covariance", other)\ncheck("posterior_covariance", nowhere)',
    "mean_unknown_x0": 'check("mean_unknown_x0", the_mean_unknown_x0)\n'
    'check("mean_unknown_x0", the_mean_unknown_x0(*[torch.tensor(0.5)] * 3))',
}


UNNAMED = {  # answers that have no name, or none any more, when the notebook is done
    "fuse_gaussians": "f = the_fuse_gaussians\ncheck('fuse_gaussians', f)",
    "both_variances": "f = the_both_variances\ncheck('both_variances', f)",
    "x0_from_posterior_mean": "c = check\nc('x0_from_posterior_mean', the_x0_from_posterior_mean)",
    "posterior_eps_coef": "for f in [the_posterior_eps_coef]:\n    check('posterior_eps_coef', f)",
    "posterior_covariance": "check(*('posterior_covariance', the_posterior_covariance))",
    "mean_unknown_x0": "n = 'unknown_x0'\ncheck(f'mean_{n}', the_mean_unknown_x0)\n"
    "del the_mean_unknown_x0\nf = None\nglobals = 3",
}


@pytest.mark.parametrize("forms", [FORMS, UNNAMED], ids=["forms", "unnamed"])
def test_what_check_takes_the_grader_takes(forms, tmp_path):
    """And a profiler that is left on costs no one a point."""
    cells = [re.sub(r"^check\(.*\n?", "", cell, flags=re.M) for cell in submissions.solved()]
    cells = [cell.replace("my_", "the_") for cell in cells]
    cells += [*forms.values(), "import cProfile\ncProfile.Profile().enable()"]
    path = tmp_path / "anna_02_reverse_posterior.ipynb"
    path.write_text(submissions.notebook(cells))
    row = grade(Submission(path, "anna", path.name), package_files(), Settings())
    assert list(forms) == [m.exercise for m in row.marks if m.status == "correct"], row


def nbgraders(x):
    raise NotImplementedError()


def left(x):
    pass


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda x: ..., {"blank": 1}),
        (lambda x: (..., x), {"blank": 1}),
        (nbgraders, {"blank": 1}),
        (left, {"blank": 1}),
        (lambda x: print(x), {"none": 1}),
        (lambda x: x * (1 + 5j), {"other": "complex, with a part of 10 i"}),
        (lambda x: "2.0", {"other": "of type str: 2.0"}),
        (lambda x: 10**5000, {"other": "of type int"}),
    ],
)
def test_what_the_kernel_says_of_an_answer(function, told, tmp_path):
    request = {"exercise": "f", "function": "f.real", "cases": [[2.0]], "given": [], "seconds": 5}
    (tmp_path / "request").write_text(json.dumps(request))
    names = {"f": types.SimpleNamespace(real=function)}
    ask(names, str(tmp_path / "request"), str(tmp_path / "answers"))
    assert read_answers((tmp_path / "answers").read_text()) == [told, {"calls": []}]

"""The grader's parts, for the command `minisd grade`.

grade      a class: every submission, side by side, and the tables
submission what was handed in: whose, which notebook, and what is not read
calls      the `check` calls of a notebook, from its syntax tree
data       a case's arguments as JSON and back; a student's answers, numbers only
runner     a process of its own: runs a notebook in a kernel, asks its functions (no torch here)
kernel     what the runner loads into the student's kernel to ask a function
apart      what keeps notebooks apart: users, folders, limits, the end of what they started
jobs       one submission: its folder, the runner, the verdicts in the grader's own process
record     rows already done, so that an interrupted run goes on
page       the tables: CSV, a page, lines for the terminal
"""

from importlib.util import find_spec

_NEEDED = {"ipykernel": "ipykernel", "jupyter_client": "jupyter_client"}
_NEEDED |= {"psutil": "psutil", "zmq": "pyzmq"}  # a module and the package that has it
if _missing := [package for module, package in _NEEDED.items() if find_spec(module) is None]:
    raise ModuleNotFoundError(
        f"the grader and hand-outs need more packages: `pip install {' '.join(_missing)}`"
    )

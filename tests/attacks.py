"""Notebooks that are after their classmates' marks or the grader. Each is a function of the folder
that the test gives them: they look for their victims nowhere else.
"""

import os
import pathlib

from submissions import BOTH, COEF, FUSE, MEAN, TWO, X0, notebook, solved, with_body

END_OTHERS = """
import os, psutil, time
def end_others(mine, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
                if PLACE in line and process.pid not in mine and (
                    "grading.runner" in line or "ipykernel_launcher" in line):
                    process.kill()
            except psutil.Error:
                pass
        time.sleep(0.1)
"""

# The number of the first user, another for each run of the tests that may go on beside this one.
FIRST = 20_000 + os.getpid() % 1500 * 20


def saboteur(place: pathlib.Path) -> str:
    """All correct; it ends every runner and kernel that is not its own, and leaves a process
    behind, with an empty environment, that goes on with it.
    """
    text = f"PLACE = {str(place)!r}\n{END_OTHERS}"
    cell = (
        f"{text}\nmine = [process.pid for process in psutil.Process().parents()] + [os.getpid()]\n"
        f"import subprocess, sys\nlasting = {text!r} + f'\\nend_others({{mine}}, 30)'\n"
        "for _ in range(2):\n"
        "    subprocess.Popen([sys.executable, '-c', lasting], env={}, start_new_session=True)\n"
        "end_others(mine, 2)"
    )
    return notebook([*solved(), cell])


def forker(place: pathlib.Path) -> str:
    """All correct; it leaves a process that hands itself on to a child, for half a minute."""
    lasting = (
        "import os, time\nend = time.monotonic() + 30\nwhile time.monotonic() < end:\n"
        "    time.sleep(0.001)\n    if os.fork(): os._exit(0)"
    )
    cell = (
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-ISc', {lasting!r}], env={{}}, start_new_session=True)"
    )
    return notebook([*solved(), cell])


def thief(place: pathlib.Path) -> str:
    """Nothing of its own: one function from a classmate's job, one from what was returned, one from
    the installed exercises, one from the solutions; one tells what the classmates' ports sent.
    """
    steal = (
        "import glob, json, time, zmq\nstolen, heard, end = [], [], time.monotonic() + 5\n"
        "socket, ports = zmq.Context().socket(zmq.SUB), set()\nsocket.subscribe('')\n"
        "while time.monotonic() < end:\n"
        f"    for path in glob.glob({str(place)!r} + '/tmp/*/job/job.json'):\n"
        "        try:\n            cells = json.load(open(path))['cells']\n"
        "        except (OSError, ValueError):\n            continue\n"
        "        stolen = stolen or ([] if any('stolen' in c for c in cells) else cells)\n"
        "    for line in open('/proc/net/tcp'):\n        parts = line.split()\n"
        f"        if parts[7] in {[str(n) for n in range(FIRST, FIRST + 10)]}:\n"
        "            if parts[3] == '0A' and parts[1] not in ports:\n"
        "                ports.add(parts[1])\n"
        "                socket.connect(f'tcp://127.0.0.1:{int(parts[1][-4:], 16)}')\n"
        "    while socket.poll(50):\n        heard += socket.recv_multipart()\n"
    )
    cells = [steal, *solved()]
    bodies = {
        FUSE: f"    return run(stolen, {FUSE!r})(m_1, v_1, m_2, v_2)",
        BOTH: f"    import json\n    text = open({str(place / 'class/a.ipynb')!r}).read()\n"
        "    cells = [''.join(cell['source']) for cell in json.loads(text)['cells']]\n"
        f"    return run(cells, {BOTH!r})(ab)",
        X0: "    import importlib.util, sys\n"
        f"    path = {str(place)!r} + '/checkout/minisd/__init__.py'\n"
        "    if 'other' not in sys.modules:\n"
        "        spec = importlib.util.spec_from_file_location('other', path)\n"
        "        sys.modules['other'] = importlib.util.module_from_spec(spec)\n"
        "        spec.loader.exec_module(sys.modules['other'])\n"
        "    import other.teaching.exercises\n"
        f"    return other.teaching.exercises.EXERCISES[{X0!r}].reference(mean, x_t, ab_t, ab_s)",
        COEF: f"    import json\n    path = {str(place)!r} + '/checkout/notebooks/solutions/'\n"
        "    text = open(path + '02_reverse_posterior.ipynb').read()\n"
        "    cells = [''.join(cell['source']) for cell in json.loads(text)['cells']]\n"
        f"    return run(cells, {COEF!r})(ab_t, ab_s)",
        TWO: "    raise ValueError(f'heard {[part for part in heard if b\"def my_\" in part]}')",
        MEAN: "    return 0.0",
    }
    for name, body in bodies.items():
        cells = with_body(cells, name, body)
    helper = (
        "def run(cells, name):\n"
        "    cell = [cell for cell in cells if f'def my_{name}(' in cell][0]\n"
        "    names = {'check': print, 'torch': torch}\n"
        "    exec(cell, names)\n    return names[f'my_{name}']"
    )
    return notebook(["import torch", helper, *cells])


def filler(place: pathlib.Path) -> str:
    """All correct; it writes file after file, up to 2 GB."""
    cell = (
        "import time\nfor n in range(2000):\n"
        "    open(f'{n}.bin', 'wb').write(bytes(10**6))\n    time.sleep(0.01)"
    )
    return notebook([*solved(), cell])


def honest(place: pathlib.Path) -> str:
    """All correct."""
    return notebook(solved())


def write(place: pathlib.Path, students: dict) -> pathlib.Path:
    """The folder of what the class returned: student -> one of the functions above."""
    folder = place / "class"
    folder.mkdir(exist_ok=True)
    for student, make in students.items():
        (folder / f"{student}.ipynb").write_text(make(place))
    return folder

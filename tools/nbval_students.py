"""See that `pytest --nbval` marks returned notebooks, all of them: each is filled in, its last
exercise wrong; every cell must pass but that one check.

    python tools/nbval_students.py FOLDER [05_ddim ...]      (some minutes)
"""

import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from submissions import filled, with_body  # noqa: E402

from minisd.teaching.exercises import NOTEBOOKS  # noqa: E402


def returned(book: str) -> tuple[dict, str]:
    """The notebook filled in but for one wrong answer, and that exercise's name."""
    notebook = json.loads((ROOT / "notebooks" / f"{book}.ipynb").read_text())
    cells, stubs = filled(book), "\n".join(filled(book))
    wrong = next(n for n in reversed(NOTEBOOKS[book]) if f"def my_{n}(" in stubs)
    cells = with_body(cells, wrong, "    return 0.123")
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["source"] = cells.pop(0)
    return notebook, wrong


def main() -> int:
    folder, bad = pathlib.Path(sys.argv[1]), 0
    folder.mkdir(parents=True, exist_ok=True)
    for book in sys.argv[2:] or NOTEBOOKS:
        if not (ROOT / "notebooks" / f"{book}.ipynb").exists():
            continue
        notebook, wrong = returned(book)
        path = folder / f"{book}.ipynb"
        path.write_text(json.dumps(notebook))
        command = [sys.executable, "-m", "pytest", "--nbval", "-q", "-p", "no:cacheprovider", path]
        said = subprocess.run(command, capture_output=True, text=True, cwd=folder).stdout
        said = re.sub(r"\x1b\[[0-9;]*m", "", said)
        failed = re.search(r"(\d+) failed", said)
        good = failed and failed[1] == "1" and f"Error: {wrong}: " in said
        bad += not good
        print(f"{book}: {said.strip().splitlines()[-1]}; {wrong} named: {bool(good)}", flush=True)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())

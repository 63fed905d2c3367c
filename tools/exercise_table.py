"""Write the table of exercises into docs/TEACHING.md, from minisd/teaching/exercises.

python tools/exercise_table.py           (`make index` does it)
python tools/exercise_table.py --check   exit 1 if it is stale, write nothing
"""

import argparse
import pathlib
import sys

from minisd.teaching.exercises import EXERCISES, NOTEBOOKS
from minisd.teaching.grading.jobs import POINTS

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "TEACHING.md"
BEGIN = "<!-- table of exercises: `make index` writes it -->"
END = "<!-- end of table -->"


def table() -> str:
    """A table for each notebook there is: exercise, level, what it is for, hints it has."""
    parts = []
    for notebook, names in NOTEBOOKS.items():
        if not (ROOT / "notebooks" / f"{notebook}.ipynb").exists():
            continue
        points = sum(POINTS[EXERCISES[name].level] for name in names)
        link = f"[{notebook}](../notebooks/{notebook}.ipynb)"
        parts += [f"**{link}**: {len(names)} exercises, {points} points", ""]
        parts += ["| exercise | level | learn to | hints |", "|---|---|---|---|"]
        for name in names:
            exercise = EXERCISES[name]
            row = (f"`{name}`", exercise.level, exercise.goal, str(len(exercise.slips)))
            parts.append(f"| {' | '.join(row)} |")
        parts.append("")
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if stale")
    check = parser.parse_args().check
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    fresh = f"{before}{BEGIN}\n\n{table()}\n{END}{rest.split(END)[1]}"
    if fresh == text:
        return 0
    if check:
        print("docs/TEACHING.md's table of exercises is stale: run `make index`")
        return 1
    PAGE.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())

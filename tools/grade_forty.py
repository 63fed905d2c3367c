"""Grade the class of tests/submissions.py and see that the table is the one expected.

python tools/grade_forty.py FOLDER              all, then once more, killed half way
python tools/grade_forty.py FOLDER broken-loop  some
"""

import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from submissions import FORTY, departures, write  # noqa: E402

from minisd.teaching.grading.record import Record  # noqa: E402


def command(folder: pathlib.Path, out: str) -> list[str]:
    options = ["--out", str(folder / out), "--jobs", "2", "--timeout", "90"]
    return [sys.executable, "-m", "minisd", "grade", str(folder / "class"), *options]


def main() -> int:
    folder, names = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:] or list(FORTY)
    write(folder / "class", names)
    start = time.monotonic()
    subprocess.run(command(folder, "whole"), check=True)
    took = time.monotonic() - start
    wrong = departures(list(Record(folder / "whole").rows.values()))
    print(*wrong, sep="\n")
    print(f"{len(names)} submissions in {took:.0f} s, {len(wrong)} not as expected")
    if sys.argv[2:]:
        return bool(wrong)
    run = subprocess.Popen(command(folder, "halves"))
    while len(Record(folder / "halves").rows if (folder / "halves").exists() else ()) < 20:
        time.sleep(1)
    run.kill()
    run.wait()
    subprocess.run(command(folder, "halves"), check=True)
    halves = Record(folder / "halves").rows.values()
    told = [
        {row.name: (row.points, [m[:2] for m in row.marks]) for row in rows}
        for rows in (Record(folder / "whole").rows.values(), halves)
    ]
    wrong += departures(list(halves))
    print(f"killed half way and started again: the same table {told[0] == told[1]}")
    return bool(wrong) or told[0] != told[1]


if __name__ == "__main__":
    sys.exit(main())

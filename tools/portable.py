"""Run the tests and the notebooks as other processors compute, and print a table of the results.

    python tools/portable.py                   all environments, one after another (hours)
    python tools/portable.py avx2 avx2-2       some, by name
    python tools/portable.py --quick           one, and of the tests those that compute networks
    python tools/portable.py --torch 2.14.1    with that PyTorch, in an environment of its own

PyTorch, oneDNN and MKL choose their code by the processor, and each can be told to take an older
one's. The notebooks' kernels inherit what is set here. It ends with 1 where something failed.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]


def as_on(aten: str, onednn: str, mkl: str) -> dict[str, str]:
    return {
        "ATEN_CPU_CAPABILITY": aten,
        "ONEDNN_MAX_CPU_ISA": onednn,
        "MKL_ENABLE_INSTRUCTIONS": mkl,
    }


PROCESSORS = {
    "here": {},
    "avx2": as_on("avx2", "AVX2", "AVX2"),
    "oldest": as_on("default", "SSE41", "SSE4_2"),
}
ENVIRONMENTS = {
    name if threads == 1 else f"{name}-{threads}": settings | {"OMP_NUM_THREADS": str(threads)}
    for threads in (1, 2)
    for name, settings in PROCESSORS.items()
}
QUICK = [  # where networks are asked
    "tests/checkpoints/test_checkpoint.py",
    "tests/checkpoints/test_diffusers_folder.py",
    "tests/models/test_attention_maps.py",
    "tests/models/test_models.py",
    "tests/test_training.py",
    "tests/tiny/test_stages.py",
]
# Pictures of the tiny model by the hundred: they take a quarter of the time.
SLOW = "tests/tiny/test_tiny.py::test_it_does_as_it_is_told"
PINS = "tests/test_layout.py::test_what_is_installed_is_what_is_pinned"


def python_with(torch: str) -> str:
    """The Python of an environment with this version of PyTorch, which is made if need be."""
    folder = ROOT / f".venv-torch-{torch}"
    python, done = str(folder / "bin" / "python"), folder / ".installed"
    if not done.exists():
        pins = (ROOT / "requirements.txt").read_text()
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        wanted = folder / "requirements.txt"
        wanted.write_text(re.sub(r"^torch==.*$", f"torch=={torch}", pins, flags=re.M))
        pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "-q"]
        subprocess.run([*pip, "-r", wanted], check=True)
        subprocess.run([*pip, "--no-deps", "-e", ROOT], check=True)
        done.touch()
    return python


def run(python: str, settings: dict[str, str], what: list[str], workers: int) -> tuple[str, float]:
    """pytest's last line, or what it ended with, and the seconds it took."""
    start, said = time.monotonic(), "no result"
    command = [python, "-m", "pytest", "--nbval", "-n", str(workers), "--dist", "loadfile"]
    command += ["-p", "no:cacheprovider", "--deselect", SLOW, "--deselect", PINS, *what]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            if re.search(r"\d+ (passed|failed|error)", line):
                said = re.sub(r"\x1b\[[0-9;]*m| in [\d.]+s.*|=", "", line).strip()
    if process.returncode and not re.search(r"failed|error", said):
        said += f", ended with {process.returncode}"
    return said, time.monotonic() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ENVIRONMENTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--torch", metavar="VERSION")
    parser.add_argument("--tests", nargs="+", help="instead of tests and notebooks")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    if unknown := set(args.names) - ENVIRONMENTS.keys():
        parser.error(f"{', '.join(unknown)}: the environments are {', '.join(ENVIRONMENTS)}")
    python = python_with(args.torch) if args.torch else sys.executable
    names = args.names or (["oldest"] if args.quick else ["here"] if args.torch else ENVIRONMENTS)
    what = args.tests or (QUICK if args.quick else ["tests", "notebooks"])
    rows, failed = [], 0
    for name in names:
        said, seconds = run(python, ENVIRONMENTS[name], what, args.workers)
        failed += not re.fullmatch(r"\d+ passed(, \d+ (skipped|deselected|warnings?))*", said)
        label = name + (f", torch {args.torch}" if args.torch else "")
        rows.append(f"{label:24} {seconds:6.0f} s   {said}")
    print("", f"{'environment':24} {'time':>8}   tests and cells", *rows, sep="\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())

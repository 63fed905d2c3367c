"""The exercises, a file for each notebook: name -> Exercise. `check(name, answer)` looks here."""

import importlib
import pkgutil

import torch

from .fresh import FRESH

EXERCISES = {}
NOTEBOOKS = {}  # "05_ddim" -> the names of its exercises
for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("nb"):
        continue
    _found = importlib.import_module(f"{__name__}.{_module.name}").EXERCISES
    if twice := EXERCISES.keys() & _found.keys():
        raise ValueError(f"two exercises are called {twice.pop()!r}")
    EXERCISES |= _found
    NOTEBOOKS[_module.name.removeprefix("nb")] = list(_found)


def unseen(name: str, seed: int) -> list[tuple]:
    """Cases that only the grader has: drawn anew for each seed, as many as `check` has."""
    generator = torch.Generator().manual_seed(seed)
    if name in FRESH:
        return [FRESH[name](generator) for _ in EXERCISES[name].drawn()]
    return list(EXERCISES[name].cases(generator))

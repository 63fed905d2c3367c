"""The exercises, a file for each notebook: name -> Exercise. `check(name, answer)` looks here."""

import importlib
import pkgutil

EXERCISES = {}
NOTEBOOKS = {}  # "05_ddim" -> the names of its exercises
for _module in pkgutil.iter_modules(__path__):
    _found = importlib.import_module(f"{__name__}.{_module.name}").EXERCISES
    if twice := EXERCISES.keys() & _found.keys():
        raise ValueError(f"two exercises are called {twice.pop()!r}")
    EXERCISES |= _found
    NOTEBOOKS[_module.name.removeprefix("nb")] = list(_found)

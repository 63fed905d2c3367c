"""The exercises, a file for each notebook: name -> Exercise. `check(name, answer)` looks here."""

import importlib
import pkgutil

EXERCISES = {}
for _module in pkgutil.iter_modules(__path__):
    EXERCISES |= importlib.import_module(f"{__name__}.{_module.name}").EXERCISES

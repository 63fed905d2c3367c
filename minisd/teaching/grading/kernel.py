"""What the grader loads into a student's kernel, after the notebook ran, to ask its functions."""

import json
import os
from collections.abc import Callable
from importlib import import_module

from ..guarded import TooLong, attempt, found_in, full_name, noticing, own_line, time_limit
from ..verdicts import NotNumbers, blank, numbers
from .data import decode, encode_numbers

ASKED = []  # exercises and functions


def ask(names: dict, request: str, answers: str) -> None:
    """Call the function that the request (a JSON file) has an expression for, in a notebook's
    names, on its cases; write what it gave to the file `answers`, a line a case. It stops at an
    error. What was asked for the exercise before is a NameError.
    """
    with open(request) as file:
        wanted = json.load(file)
    checked = getattr(import_module("minisd.teaching.checking"), "CHECKED", {})
    function = eval(wanted["function"], names, {"last_checked": checked})
    if any(name == wanted["exercise"] and f is function for name, f in ASKED):
        raise NameError("it was asked before")
    ASKED.append((wanted["exercise"], function))
    if not callable(function):
        raise TypeError(
            f"check wants the function itself, and was given a {type(function).__name__}"
        )
    ours = found_in(function, map(_find, wanted["given"]))
    with open(answers + ".part", "w") as file:
        found = []
        for case in wanted["cases"]:
            with noticing(ours) as called:
                line = _answer(function, [decode(v) for v in case], wanted["seconds"])
            found += called
            file.write(json.dumps(line) + "\n")
            if "error" in line or "slow" in line:
                break
        file.write(json.dumps({"calls": [full_name(f) for f in found[:1]]}) + "\n")
    os.replace(answers + ".part", answers)


def _find(name: str) -> Callable | str | None:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute) if module else name
    except (ImportError, AttributeError):  # a reference of the exercises: it is not here
        return None


def _answer(function: Callable, case: list, seconds: float) -> dict:
    try:
        with time_limit(seconds):
            got = attempt(function, case)
            if blank(got):
                return {"blank": 1}
            return {"none": 1} if got is None else encode_numbers(numbers(got, parted=True))
    except NotNumbers as other:
        return {"other": str(other)}
    except TooLong as error:
        return {"slow": own_line(error, function)}
    except (Exception, SystemExit) as error:
        line = own_line(error, function)
        return {"error": f"{type(error).__name__}: {str(error)[:500]}" + (line and f"\n  {line}")}

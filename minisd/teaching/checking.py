"""For notebooks: `compare` two ways to the same numbers, `check` an exercise.

Both print the same text on every machine: a bound that was met, never the last digits.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from .. import samplers
from .guarded import TooLong, attempt, found_in, full_name, noticing, own_line, time_limit
from .verdicts import BLANK, WRONG, NotNumbers, copies, difference, numbers, verdict

SAMPLERS = [
    f
    for name, f in vars(samplers).items()
    if inspect.isfunction(f) and f.__module__ == samplers.__name__ and name[0] != "_"
]
SECONDS = 5  # a function of an exercise takes milliseconds


@dataclass(frozen=True)
class Exercise:
    """An exercise: the reference, the cases it is tried on, and the slips that get a hint.

    cases(generator) gives argument tuples; slips maps a hint to the function that makes that slip.
    level is "easy", "middle" or "hard", as its notebook says; goal, a line for the teacher's table.
    given are functions of minisd that answer the exercise as they are, and names of such functions
    of the notebook: calling one of them, the reference, or a sampler, is no answer. Where a call of
    what would be is the exercise, it is `allowed`.
    """

    reference: Callable
    cases: Callable[[torch.Generator], Iterable[tuple]]
    slips: dict[str, Callable] = field(default_factory=dict)
    tolerance: float = 1e-9
    level: str = "middle"
    goal: str = ""
    given: tuple[Callable | str, ...] = ()
    allowed: tuple[Callable, ...] = ()

    @property
    def borrowed(self) -> list[Callable | str]:
        """What no answer calls: functions, and names in the notebook."""
        return [f for f in (self.reference, *self.given, *SAMPLERS) if f not in self.allowed]

    def drawn(self, seed: int = 0) -> list[tuple]:
        """The cases of a seed."""
        return list(self.cases(torch.Generator().manual_seed(seed)))


def compare(name: str, a, b, tolerance: float = 1e-12) -> None:
    """Print that max |a - b| ≤ tolerance, or raise an AssertionError that says where they part."""
    try:
        a, b = numbers(a), numbers(b)
    except NotNumbers as other:
        raise NotNumbers(f"{name}: compare needs real numbers, but one side is {other}") from None
    wrong = difference(a, b, tolerance)
    if wrong:
        raise AssertionError(f"{name}: {wrong}")
    print(f"{name}: equal, max |a - b| <= {tolerance:g} over {max(a.numel(), b.numel())} numbers")


def check(name: str, answer: Callable, required: bool = False) -> None:
    """Try `answer` on the exercise `name`: print that it is correct, or not attempted yet (it still
    returns `...`; an AssertionError if required). Raise an AssertionError with the first wrong case
    and, for a known slip, a hint; also for a function that never ends, or that calls the function
    it should be. An error inside `answer` is raised on, with a note of its line and its case.
    """
    __tracebackhide__ = True  # a student's traceback shows the student's lines
    from .exercises import EXERCISES

    if name not in EXERCISES:
        near = difflib.get_close_matches(str(name), EXERCISES, 1)
        told = f"did you mean {near[0]!r}?" if near else "the notebook's headings have their names"
        raise ValueError(f"there is no exercise {name!r}; {told}")
    if not callable(answer):
        raise TypeError(
            f"{name}: give check the function itself, check({name!r}, my_{name}), without calling "
            f"it; it was given a {type(answer).__name__}"
        )
    exercise = EXERCISES[name]
    cases = exercise.drawn()
    answers = _Answers(name, answer, cases, found_in(answer, exercise.borrowed))
    found = verdict(exercise, cases, answers, _argument_names(answer))
    if found.status == WRONG:
        hint = f"\n  hint: {found.hint}" if found.hint else ""
        raise AssertionError(f"{name}: {found.text}{hint}")
    if found.status == BLANK:
        if required:
            raise AssertionError(f"{name}: not attempted yet")
        print(f"{name}: not attempted yet")
    elif answers.called:
        called = full_name(answers.called[0])
        raise AssertionError(
            f"{name}: your function calls {called}, which is the answer; write it out"
        )
    else:
        print(f"{name}: correct, {len(cases)} cases, max |difference| <= {exercise.tolerance:g}")


class _Answers:
    """What a student's function gives for each case; every case is tried at most once.

    `called` are those of the `ours` that it called.
    """

    def __init__(self, name: str, function: Callable, cases: list[tuple], ours: list[Callable]):
        self.name, self.function, self.cases, self.ours = name, function, cases, ours
        self.known, self.called = {}, []

    def __call__(self, i: int):
        __tracebackhide__ = True
        if i not in self.known:
            self.known[i] = self._call(i)
        return self.known[i]

    def _call(self, i: int):
        __tracebackhide__ = True
        try:
            with noticing(self.ours) as called, time_limit(SECONDS):
                answer = attempt(self.function, copies(self.cases[i]))
            self.called += called
            return answer
        except TooLong as error:
            line = own_line(error, self.function)
        except Exception as error:
            line = own_line(error, self.function)
            case = f"in case {i + 1} of {len(self.cases)}"
            error.add_note(f"{self.name}: {case}" + (f", {line}" if line else ""))
            raise
        raise AssertionError(
            f"{self.name}: case {i + 1} of {len(self.cases)} still ran after {SECONDS} seconds; "
            "is there a loop that never ends?" + (f"\n  it was at {line}" if line else "")
        )


def _argument_names(function: Callable) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []

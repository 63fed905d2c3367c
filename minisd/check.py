"""For notebooks: `compare` two ways to the same numbers, `check` an exercise.

Both print the same text on every machine: a bound that was met, never the last digits.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Exercise:
    """An exercise: the reference, the cases it is tried on, and the slips that get a hint.

    cases(generator) gives argument tuples; slips maps a hint to the function that makes that slip.
    """

    reference: Callable
    cases: Callable[[torch.Generator], Iterable[tuple]]
    slips: dict[str, Callable] = field(default_factory=dict)
    tolerance: float = 1e-9


def compare(name: str, a, b, tolerance: float = 1e-12) -> None:
    """Print that max |a - b| ≤ tolerance, or raise an AssertionError that says where they part."""
    a, b = _tensor(a), _tensor(b)
    wrong = _difference(a, b, tolerance)
    if wrong:
        raise AssertionError(f"{name}: {wrong}")
    print(f"{name}: equal, max |a - b| <= {tolerance:g} over {max(a.numel(), b.numel())} numbers")


def check(name: str, answer: Callable) -> None:
    """Try `answer` on the exercise `name`: print that it is correct, or not attempted yet (it still
    returns `...`); raise an AssertionError with the first wrong case and, for a known slip, a hint.
    """
    from .exercises import EXERCISES

    if name not in EXERCISES:
        raise ValueError(f"there is no exercise {name!r}; there are {', '.join(sorted(EXERCISES))}")
    exercise = EXERCISES[name]
    cases = list(exercise.cases(torch.Generator().manual_seed(0)))
    for number, case in enumerate(cases, 1):
        got = answer(*_copies(case))
        if got is ...:
            print(f"{name}: not attempted yet")
            return
        if got is None:
            raise AssertionError(f"{name}: your function returned None; is a `return` missing?")
        wrong = _wrong(exercise, case, got)
        if wrong:
            hint = _hint(exercise, cases, answer)
            shown = ", ".join(_brief(value) for value in case)
            raise AssertionError(
                f"{name}: case {number} of {len(cases)} is wrong\n  called with {shown}\n  {wrong}"
                + (f"\n  hint: {hint}" if hint else "")
            )
    print(f"{name}: correct, {len(cases)} cases, max |difference| <= {exercise.tolerance:g}")


def _wrong(exercise: Exercise, case: tuple, got) -> str:
    want = _tensor(exercise.reference(*_copies(case)))
    try:
        got = _tensor(got)
    except (TypeError, ValueError, RuntimeError):
        return f"the answer is not numbers but {type(got).__name__}: {str(got)[:60]}"
    return _difference(got, want, exercise.tolerance, "got", "want")


def _hint(exercise: Exercise, cases: list[tuple], answer: Callable) -> str:
    """The hint of the slip that gives the student's numbers in every case."""
    for hint, slip in exercise.slips.items():
        try:
            answers = [(_tensor(answer(*_copies(c))), _tensor(slip(*_copies(c)))) for c in cases]
        except Exception:  # a slip, or the answer, may fail on a case; then it is another mistake
            continue
        if not any(_difference(a, b, exercise.tolerance) for a, b in answers):
            return hint
    return ""


def _difference(a: Tensor, b: Tensor, tolerance: float, one: str = "a", two: str = "b") -> str:
    if a.numel() != b.numel() or a.squeeze().shape != b.squeeze().shape:
        return f"the shapes differ: {one} {tuple(a.shape)}, {two} {tuple(b.shape)}"
    a, b = a.flatten(), b.flatten()
    gap = (a - b).abs()
    gap[(a == b) | (a.isnan() & b.isnan())] = 0  # equal infinities; nan where nan is due
    gap[gap.isnan()] = torch.inf
    if not len(gap) or gap.max() <= tolerance:
        return ""
    i = int(gap.argmax())
    return (
        f"max |{one} - {two}| = {gap[i]:.3g} at number {i} of {len(gap)}: "
        f"{one} {a[i]:.6g}, {two} {b[i]:.6g}"
    )


def _tensor(value) -> Tensor:
    """Numbers in any wrapping (torch, numpy, a Fraction, lists and tuples of these) as float64."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", torch.float64)
    if isinstance(value, (list, tuple, range)):
        parts = [_tensor(v) for v in value]
        alike = len({part.shape for part in parts}) == 1
        return (
            torch.stack(parts) if alike else torch.cat([*map(torch.flatten, parts), torch.zeros(0)])
        )
    return torch.as_tensor(value if hasattr(value, "shape") else float(value), dtype=torch.float64)


def _copies(case: tuple) -> tuple:
    return tuple(v.clone() if isinstance(v, Tensor) else v for v in case)


def _brief(value) -> str:
    if isinstance(value, Tensor) and value.numel() > 4:
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Tensor):
        return str(
            [float(f"{v:.4g}") for v in value.flatten().tolist()]
            if value.ndim
            else float(f"{value.item():.4g}")
        )
    return repr(value) if len(repr(value)) < 40 else f"{type(value).__name__} ..."

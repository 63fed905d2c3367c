"""How an answer to an exercise is judged: by `check` in a notebook, by the grader after it ran."""

import contextlib
import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CORRECT, BLANK, WRONG = "correct", "not attempted", "wrong"
FLOAT32 = (
    "equal to 6 digits, which looks like float32; the cases are float64, so leave out .float() and "
    "write torch.tensor(0.3, dtype=torch.float64)"
)


class NotNumbers(TypeError):
    """An answer that is no number, tensor, array, or list of these; it says what it is."""


class Verdict(NamedTuple):
    """CORRECT, BLANK or WRONG; what the student reads; the hint, where the slip is known."""

    status: str
    text: str = ""
    hint: str = ""


def verdict(exercise, cases: list[tuple], answer: Callable, names: list[str] = ()) -> Verdict:
    """The verdict on answer(i), what a student's function gave for cases[i].

    It is asked up to the first wrong case, and for the rest only to find the slip. names are those
    of the function's arguments, to show the case with.
    """
    for i, case in enumerate(cases):
        near = ""
        try:
            got = answer(i)
            if blank(got):
                return Verdict(BLANK)
            if got is None:
                return Verdict(WRONG, "your function returned None; is a `return` missing?")
            want = numbers(exercise.reference(*copies(case)))
            got = numbers(got)
            if wrong := difference(got, want, exercise.tolerance, "got", "want"):
                near = FLOAT32 if _rounded(got, want) else ""
        except NotNumbers as other:
            wrong = f"the answer must be real numbers, but it is {other}"
        if wrong:
            text = f"case {i + 1} of {len(cases)} is wrong\n  called with {_shown(case, names)}"
            return Verdict(WRONG, f"{text}\n  {wrong}", _hint(exercise, cases, answer) or near)
    return Verdict(CORRECT)


def blank(got) -> bool:
    """Whether a stub gave it: `...`, alone or among others."""
    return got is ... or (isinstance(got, (tuple, list)) and any(g is ... for g in got))


def _rounded(got: Tensor, want: Tensor) -> bool:
    """Whether two differ as float32 from float64; whole numbers do not, one more is one more."""
    if got.numel() != want.numel() or not want.isfinite().all() or (want == want.round()).all():
        return False
    got, want = got.flatten(), want.flatten()
    return bool(((got - want).abs() <= 1e-6 * want.abs() + 1e-7 * want.abs().max()).all())


def _hint(exercise, cases: list[tuple], answer: Callable) -> str:
    """The hint of the slip that gives the student's numbers in every case."""
    try:
        answers = [numbers(answer(i)) for i in range(len(cases))]
    except Exception:  # the answer may fail on a later case; then it is another mistake
        return ""
    for hint, slip in exercise.slips.items():
        try:
            slipped = [numbers(slip(*copies(case))) for case in cases]
        except Exception:  # so may a slip
            continue
        pairs = zip(answers, slipped, strict=True)
        if not any(difference(a, b, exercise.tolerance) for a, b in pairs):
            return hint
    return ""


def difference(a: Tensor, b: Tensor, tolerance: float, one: str = "a", two: str = "b") -> str:
    """Where two tensors part by more than the tolerance, in words; "" where they do not."""
    if a.numel() != b.numel() or a.squeeze().shape != b.squeeze().shape:
        return f"the shapes differ: {one} {tuple(a.shape)}, {two} {tuple(b.shape)}"
    shape = b.shape
    a, b = a.flatten(), b.flatten()
    gap = (a - b).abs()
    gap[(a == b) | (a.isnan() & b.isnan())] = 0  # equal infinities; nan where nan is due
    gap[gap.isnan()] = math.inf
    if not len(gap) or gap.max() <= tolerance:
        return ""
    i = int(gap.argmax())
    place = f"number {i} of {len(gap)}"
    if len(shape) > 1:
        place = f"{[int(k) for k in torch.unravel_index(torch.tensor(i), shape)]}, {place}"
    apart = int((gap > tolerance).sum())
    return (
        f"max |{one} - {two}| = {gap[i]:.3g} at {place}: {one} {a[i]:.6g}, {two} {b[i]:.6g}"
        + (f"\n  {apart} of {len(gap)} numbers differ" if len(gap) > 1 else "")
        + (f"\n  {one} {_few(a)}\n  {two} {_few(b)}" if 1 < len(gap) <= 6 else "")
    )


def numbers(value) -> Tensor:
    """Real numbers in any wrapping (torch, numpy, a Fraction, lists and tuples of these) as
    float64. Raises NotNumbers for anything else: a string, a complex number that is not real.
    """
    try:
        if isinstance(value, (list, tuple, range)):
            parts = [numbers(v) for v in value]
            alike = len({part.shape for part in parts}) == 1
            flat = [part.flatten() for part in parts]
            return torch.stack(parts) if alike else torch.cat([*flat, torch.zeros(0)])
        if isinstance(value, Tensor):
            found = value.detach().cpu().resolve_conj()
            found = found if found.layout == torch.strided else found.to_dense()
            if found.is_nested:  # which has no shape
                raise TypeError
        elif hasattr(value, "shape") or isinstance(value, complex):
            array = np.asarray(value)
            array = array.astype(np.float64) if array.dtype.kind in "biuf" else array
            if array.dtype.kind == "O":
                return numbers(array.tolist())
            found = torch.from_numpy(np.array(array))  # of any strides
        elif isinstance(value, (str, bytes, bytearray)):
            raise TypeError
        else:
            found = torch.tensor(float(value), dtype=torch.float64)
        if found.is_complex():
            if (found.imag != 0).any():
                raise NotNumbers(f"complex, with a part of {found.imag.abs().max():.3g} i")
            found = found.real
        return found.to(torch.float64)
    except NotNumbers:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError):
        shown = ""
        with contextlib.suppress(Exception):  # nested too deeply, or of too many digits
            shown = f": {str(value)[:60]}"
        raise NotNumbers(f"of type {type(value).__name__}{shown}") from None


def copies(case: tuple) -> tuple:
    """The arguments of a case, copied all through: a function may write into its own."""
    return copy.deepcopy(case)


def _shown(case: tuple, names: list[str]) -> str:
    if len(case) > 1 and len(names) == len(case):
        return ", ".join(f"{name} = {_brief(v)}" for name, v in zip(names, case, strict=True))
    return ", ".join(_brief(value) for value in case)


def _few(values: Tensor, most: int = 6) -> str:
    shown = ", ".join(f"{v:.4g}" for v in values.flatten()[:most].tolist())
    return f"[{shown}{', ...' if values.numel() > most else ''}]"


def _brief(value) -> str:
    if isinstance(value, Tensor) and value.numel() > 4:
        return f"a tensor {tuple(value.shape)} of {_few(value, 3)}"
    if isinstance(value, Tensor):
        return _few(value) if value.ndim else f"{value.item():.4g}"
    return repr(value) if len(repr(value)) < 40 else f"{type(value).__name__} ..."

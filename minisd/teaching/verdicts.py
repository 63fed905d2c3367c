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
NEAR = 1e-4  # of the largest number: so far apart, two answers have the same cause
FLOAT32 = (
    "right to seven digits, which looks like float32; compute in float64: torch.tensor(0.3), "
    "torch.arange(T) / T and .float() give float32, and dtype=torch.float64 avoids it"
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

    It is asked up to the first wrong case, and for the rest only to find the slip. What may be
    float32 is told where nothing else is wrong. names are those of the function's arguments, to
    show the case with.
    """
    rounded = None
    for i, case in enumerate(cases):
        wanted = numbers(exercise.reference(*copies(case)), parted=True)
        try:
            got = answer(i)
            if blank(got):
                return Verdict(BLANK)
            if got is None:
                return Verdict(WRONG, "your function returned None; is a `return` missing?")
            got = numbers(got, parted=True)
            wrong = difference(got, wanted, exercise.tolerance, "got", "want")
        except NotNumbers as other:
            got, wrong = None, f"the answer must be real numbers, but it is {other}"
        if wrong:
            text = f"case {i + 1} of {len(cases)} is wrong\n  called with {_shown(case, names)}"
            found = i, f"{text}\n  {wrong}"
            if not _is_float32(got, wanted):
                return Verdict(WRONG, found[1], _hint(exercise, cases, answer, i))
            rounded = rounded or found
    if rounded:
        return Verdict(WRONG, rounded[1], _hint(exercise, cases, answer, rounded[0]) or FLOAT32)
    return Verdict(CORRECT)


def blank(got) -> bool:
    """Whether a stub gave it: `...`, alone or among others."""
    return got is ... or (isinstance(got, (tuple, list)) and any(g is ... for g in got))


def _hint(exercise, cases: list[tuple], answer: Callable, wrong: int) -> str:
    """The hint of the slip that gives the student's numbers in a wrong case and in all before it;
    of several, of the one that does so in most cases, and then of the nearest. Whole numbers are
    easily the same by chance: they must be so in most cases.
    """
    given = [_numbers_or_none(answer, i) for i in range(len(cases))]
    if given[wrong] is None:
        return ""
    right = numbers(exercise.reference(*copies(cases[wrong])), parted=True)
    to_right = _apart(given[wrong], right)
    bounds, found = [max(exercise.tolerance, _near(a)) for a in given], []
    for hint, slip in exercise.slips.items():
        apart = {}
        for i in (wrong, *range(wrong), *range(wrong + 1, len(cases))):
            apart[i] = _apart(given[i], _numbers_or_none(slip, *copies(cases[i])))
            if i <= wrong and apart[i] > bounds[i]:
                break  # another slip: its other cases need not be computed
        else:
            same = sum(gap <= bounds[i] for i, gap in apart.items())
            enough = _near(given[wrong]) > 0 or 2 * same > len(cases)
            if enough and apart[wrong] < to_right / 2:
                found.append((-same, apart[wrong], hint))
    return min(found, default=(0, 0, ""), key=lambda f: f[:2])[2]


def _is_float32(got: Tensor | None, want: Tensor) -> bool:
    """Whether two differ as float32 from float64. What float32 can hold may have lost some digits
    on its way; what it cannot hold met it once. Whole numbers do not: one more is one more.
    """
    if got is None or _apart(got, want) == math.inf or not _near(got):
        return False
    got, want = got.flatten(), want.flatten()
    got, want = (x[~(got.isnan() & want.isnan())] for x in (got, want))
    held = bool((got.float().double() == got).all())
    allowed = _near(want) if held else 1e-6 * want.abs() + 1e-3 * _near(want)
    return bool((_gaps(got, want) <= allowed).all())


def _numbers_or_none(function: Callable, *arguments) -> Tensor | None:
    """What it gives; None where it fails, as an answer may in a later case, and a slip in any."""
    try:
        return numbers(function(*arguments), parted=True)
    except Exception:
        return None


def _near(a: Tensor | None) -> float:
    """How far from `a` an answer of the same cause may be; for whole numbers, nowhere else."""
    sizes = a[a.isfinite()].abs() if a is not None else ()
    return 0.0 if not len(sizes) or (a == a.round()).all() else NEAR * float(sizes.max())


def _apart(a: Tensor | None, b: Tensor | None) -> float:
    """max |a - b|; infinite where the shapes differ, or one is not there."""
    if a is None or b is None or _shapes_differ(a, b):
        return math.inf
    return float(_gaps(a, b).max()) if a.numel() else 0.0


def _shapes_differ(a: Tensor, b: Tensor) -> bool:
    return a.numel() != b.numel() or a.squeeze().shape != b.squeeze().shape


def _gaps(a: Tensor, b: Tensor) -> Tensor:
    """|a - b| of each number; 0 for equal infinities, and for nan where nan is due."""
    a, b = a.flatten(), b.flatten()
    gap = (a - b).abs()
    gap[(a == b) | (a.isnan() & b.isnan())] = 0
    gap[gap.isnan()] = math.inf
    return gap


def difference(a: Tensor, b: Tensor, tolerance: float, one: str = "a", two: str = "b") -> str:
    """Where two tensors part by more than the tolerance, in words; "" where they do not."""
    if _shapes_differ(a, b):
        return f"the shapes differ: {one} {tuple(a.shape)}, {two} {tuple(b.shape)}"
    shape, gap = b.shape, _gaps(a, b)
    a, b = a.flatten(), b.flatten()
    if not len(gap) or gap.max() <= tolerance:
        return ""
    i = int(gap.argmax())
    place = f"number {i} of {len(gap)}"
    if len(shape) > 1:
        place = f"{[int(k) for k in np.unravel_index(i, shape)]}, {place}"
    apart, borders = int((gap > tolerance).sum()), bool((a.isnan() != b.isnan()).any())
    return (
        f"max |{one} - {two}| = {gap[i]:.3g} at {place}: {one} {a[i]:.6g}, {two} {b[i]:.6g}"
        + (f"\n  {apart} of {len(gap)} numbers differ" if len(gap) > 1 else "")
        + (f"\n  {one} {_few(a)}\n  {two} {_few(b)}" if 1 < len(gap) <= 6 else "")
        + (f"\n  nan stands where a part ends: {one}'s parts have other sizes" if borders else "")
    )


def numbers(value, parted: bool = False) -> Tensor:
    """Real numbers in any wrapping (torch, numpy, a Fraction, lists and tuples of these) as
    float64. Raises NotNumbers for anything else: a string, a complex number that is not real.

    Parts of different shapes come as one row of numbers; parted: with nan between two of them, so
    that what is split elsewhere is another answer.
    """
    try:
        if isinstance(value, (list, tuple, range)):
            parts = [numbers(v, parted) for v in value]
            if len({part.shape for part in parts}) == 1:
                return torch.stack(parts)
            if parted and len({part.squeeze().shape for part in parts}) == 1:
                return torch.stack([part.squeeze() for part in parts])
            flat, border = [part.flatten() for part in parts], torch.full((1,), math.nan)
            if parted:
                flat = [piece for part in flat for piece in (border, part)][1:]
            return torch.cat([*flat, torch.zeros(0)])
        if isinstance(value, Tensor):
            found = value.detach().cpu().resolve_conj()
            found = found if found.layout == torch.strided else found.to_dense()
            if found.is_nested:  # which has no shape
                raise TypeError
        elif hasattr(value, "shape") or isinstance(value, complex):
            array = np.asarray(value)
            array = array.astype(np.float64) if array.dtype.kind in "biuf" else array
            if array.dtype.kind == "O":
                return numbers(array.tolist(), parted)
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

"""Exercises of notebook 16."""

import itertools

import torch

from ..checking import Exercise

# ---- memory -------------------------------------------------------------------------------

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def _copied_bytes(mapped=True, by_name=True, of="runs", released=True):
    """The weights of one's own, beside the mapped file; the arguments are slips."""

    def copied(parameters, stored, runs, release):
        same = stored == runs if by_name else BYTES[stored] == BYTES[runs]
        if same and mapped:
            return 0
        held = max(parameters) if release and released else sum(parameters)
        return held * BYTES[runs if of == "runs" else stored]

    return copied


def _copied_cases(g):
    for stored, runs, release in itertools.product(BYTES, BYTES, (False, True)):
        parameters = torch.randint(1, 10**9, (3,), generator=g).tolist()
        yield parameters, stored, runs, release


# ---- levels -------------------------------------------------------------------------------


def _official_levels(picture):
    return (255 * ((picture + 1) / 2).clamp(0, 1)).floor()


def _level_cases(g):
    for shape in ((3, 2, 2), (3, 5, 4), (2, 3, 4, 4)):
        yield (1.3 * (2 * torch.rand(shape, generator=g, dtype=torch.float64) - 1),)
    yield (torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).reshape(3, 1, 1),)


EXERCISES = {
    "copied_bytes": Exercise(
        _copied_bytes(),
        _copied_cases,
        {
            "what runs in the file's dtype is mapped from it, and not copied": _copied_bytes(
                mapped=False
            ),
            "float16 and bfloat16 are both two bytes, but not the same numbers": _copied_bytes(
                by_name=False
            ),
            "a copy has the dtype that runs, not the file's": _copied_bytes(of="stored"),
            "with release only one copy is held at a time": _copied_bytes(released=False),
        },
        level="middle",
        goal="say what memory a checkpoint takes beside its file",
    ),
    "official_levels": Exercise(
        _official_levels,
        _level_cases,
        {
            "the official script cuts the fraction off, it does not round": lambda p: (
                255 * ((p + 1) / 2).clamp(0, 1)
            ).round(),
            "clamp to 0..1 first, or a byte begins again at 0": lambda p: (
                (255 * (p + 1) / 2).floor() % 256
            ),
            "a picture is from -1 to 1: first (picture + 1) / 2": lambda p: (
                255 * p.clamp(0, 1)
            ).floor(),
            "the highest level is 255": lambda p: (256 * ((p + 1) / 2).clamp(0, 1)).floor(),
        },
        level="easy",
        goal="turn a picture into bytes as the official script does",
        given=("by_cutting",),
    ),
}

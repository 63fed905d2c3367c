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


def _counted(parameters, stored, runs, release):
    return _copied_bytes()(parameters, stored, runs, release) // BYTES[runs]


def _bits(parameters, stored, runs, release):
    return _copied_bytes()(parameters, stored, runs, release) * 8


# ---- arithmetic with weights --------------------------------------------------------------


def _add_difference(wider="first", formula="difference"):
    """The difference of two checkpoints added to a third, and slips of it."""

    def merge(inpaint, custom, base, share):
        merged = []
        for w, a, b in zip(inpaint, custom, base, strict=True):
            change = {
                "difference": share * (a - b),
                "turned": share * (b - a),
                "whole": a - b,
                "no base": share * a,
                "mean": share * (a - w[:, : a.shape[1]] if w.ndim > 1 else a - w),
            }[formula]
            if w.shape == a.shape:
                merged.append(w + change)
            elif wider == "stays":
                merged.append(w)
            elif wider == "custom":
                merged.append(a + 0 * change)
            else:
                k = a.shape[1]
                place = slice(0, k) if wider == "first" else slice(-k, None)
                w = w.clone()
                w[:, place] += change
                merged.append(w)
        return merged

    return merge


def _difference_cases(g):
    def draw(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=g)

    for share, place in ((1.0, 0), (0.5, 2), (0.7, 1)):
        shapes = [(3,), (2, 4), (3, 3, 1, 1)]
        shapes.insert(place, (2, 4, 3, 3))
        custom, base = ([draw(*shape) for shape in shapes] for _ in range(2))
        shapes[place] = (2, 9, 3, 3)
        yield [draw(*shape) for shape in shapes], custom, base, share
    yield [draw(2, 2)], [draw(2, 2)], [draw(2, 2)], -0.3


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
            "A network that runs in the file's dtype is mapped from the file, and not copied.": (
                _copied_bytes(mapped=False)
            ),
            "float16 and bfloat16 have two bytes each, but are different dtypes: copy.": (
                _copied_bytes(by_name=False)
            ),
            "A copy has the dtype that runs, not the file's.": _copied_bytes(of="stored"),
            "Without release all copies stay: their sizes add up.": (
                lambda parameters, stored, runs, release: _copied_bytes()(
                    parameters, stored, runs, True
                )
            ),
            "With release only one copy is held at a time: the largest counts.": _copied_bytes(
                released=False
            ),
            "These are numbers; each has four or two bytes.": (_counted),
            "These are bits; a float32 has four bytes.": (_bits),
            "A copy in float32 takes four bytes a parameter, not two.": (
                lambda *case: 2 * _counted(*case)
            ),
        },
        level="middle",
        goal="say what memory a checkpoint takes beside its file",
    ),
    "add_difference": Exercise(
        _add_difference(),
        _difference_cases,
        {
            "The difference is custom - base, not base - custom.": _add_difference(
                formula="turned"
            ),
            "The share is missing: it multiplies the difference.": _add_difference(formula="whole"),
            "base is not subtracted: only what custom has learned since then is added.": (
                _add_difference(formula="no base")
            ),
            "This is the way from inpaint to custom; base takes no part in it.": (
                _add_difference(formula="mean")
            ),
            "The wider convolution stays as it was; its first channels get the difference, too.": (
                _add_difference(wider="stays")
            ),
            "The latents' channels come first: add the difference to these, not to the last.": (
                _add_difference(wider="last")
            ),
            "The wider convolution is replaced by custom's; it must keep all its channels.": (
                _add_difference(wider="custom")
            ),
            "Nothing is added: the difference custom - base is missing.": (
                lambda inpaint, custom, base, share: inpaint
            ),
        },
        level="middle",
        goal="add what a custom model has learned to an inpainting model",
    ),
    "official_levels": Exercise(
        _official_levels,
        _level_cases,
        {
            "The official script cuts the fraction off, it does not round.": lambda p: (
                255 * ((p + 1) / 2).clamp(0, 1)
            ).round(),
            "Clamp to 0..1 first, or a byte above 255 begins again at 0.": lambda p: (
                (255 * (p + 1) / 2).floor() % 256
            ),
            "A picture is from -1 to 1: first compute (picture + 1) / 2.": lambda p: (
                255 * p.clamp(0, 1)
            ).floor(),
            "The fraction is not cut off: levels are whole numbers.": lambda p: (
                255 * ((p + 1) / 2).clamp(0, 1)
            ),
            "The clamp is missing: levels are from 0 to 255.": lambda p: (
                255 * (p + 1) / 2
            ).floor(),
            "The highest level is 255: multiply by 255, not by 256.": lambda p: (
                256 * ((p + 1) / 2).clamp(0, 1)
            ).floor(),
            "The factor 255 is missing: levels are from 0 to 255.": (
                lambda p: ((p + 1) / 2).clamp(0, 1)
            ),
            "Multiply 0..1 by 255; here it is 254.": (
                lambda p: (127 * (p + 1)).clamp(0, 255).floor()
            ),
        },
        level="easy",
        goal="turn a picture into bytes as the official script does",
        given=("by_cutting",),
    ),
}

"""Exercises of notebook 19."""

import torch

from ...losses import prior_preservation
from ...models.lora import lora_delta
from ...models.words import embed_with_words
from ..checking import Exercise


def _normal(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


# ---- LoRA ---------------------------------------------------------------------------------


def _delta_cases(g):
    for rank, inward, out, alpha in (
        (2, 5, 3, 2.0),
        (4, 3, 6, 1.0),
        (1, 4, 4, 8.0),
        (3, 7, 2, 6.0),
    ):
        yield _normal(g, rank, inward), _normal(g, out, rank), alpha


def _forward(x, weight, down, up, alpha, scale):
    return x @ weight.T + scale * alpha / len(down) * (x @ down.T @ up.T)


def _forward_cases(g):
    for (down, up, alpha), scale in zip(_delta_cases(g), (0.5, 1.0, 2.0, -1.0), strict=True):
        x, weight = _normal(g, 4, down.shape[1]), _normal(g, len(up), down.shape[1])
        yield x, weight, down, up, alpha, scale


def _parameters(sizes, rank):
    return sum(rank * (inward + out) for out, inward in sizes)


def _parameters_cases(g):
    for count, rank in ((1, 4), (3, 8), (2, 1), (4, 16)):
        sizes = 8 * torch.randint(2, 100, (count, 2), generator=g)
        yield [tuple(size) for size in sizes.tolist()], rank


def _gradients(x, dy, down, up, alpha):
    factor = alpha / len(down)
    return factor * up.T @ dy.T @ x, factor * dy.T @ x @ down.T


def _gradients_cases(g):
    for i, (down, up, alpha) in enumerate(_delta_cases(g)):
        up = torch.zeros_like(up) if i == 1 else up  # as it begins
        yield _normal(g, 5, down.shape[1]), _normal(g, 5, len(up)), down, up, alpha


# ---- textual inversion --------------------------------------------------------------------


def _embed_cases(g):
    for vocabulary, width, count in ((6, 3, 1), (5, 4, 3), (9, 2, 2)):
        new = torch.arange(vocabulary, vocabulary + count)
        old = torch.randint(vocabulary, (4,), generator=g)
        tokens = torch.cat([old[:2], new, old[2:]])
        yield tokens, _normal(g, vocabulary, width), _normal(g, count, width)


def _old_rows(before, after, first):
    return torch.cat([before[:first], after[first:]])


def _old_rows_cases(g):
    for rows, width, count in ((6, 3, 1), (5, 4, 2), (9, 2, 3)):
        before = _normal(g, rows, width)
        yield before, before + 0.1 * _normal(g, rows, width), rows - count


def _end(tokens, end):
    return (tokens == end).int().argmax(1)


def _end_cases(g):
    start, end, word = 8, 9, 10
    yield (
        torch.tensor([[start, 3, word, 5, end, end, end], [start, 2, end, end, end, end, end]]),
        end,
    )
    yield torch.tensor([[start, word, word + 1, end, 0, 0], [start, 4, 4, 1, 2, end]]), end
    ids = torch.randint(1, 8, (3, 7), generator=g)
    ids[:, 0], ids[0, 5], ids[1, 3], ids[2, 6], ids[1, 4:] = start, end, end, end, 0
    ids[0, 6], ids[2, 2] = end, word
    yield ids, end


# ---- DreamBooth ---------------------------------------------------------------------------


def _prior_loss(errors, weight):
    new, prior = errors.chunk(2)
    return prior_preservation(new, prior, weight).mean()


def _prior_cases(g):
    for b, weight in ((2, 0.5), (1, 1.0), (4, 2.0), (3, 0.0)):
        yield _normal(g, 2 * b) ** 2, weight


# ---- ControlNet: zero convolutions --------------------------------------------------------


def _zero_conv_gradients(weight, x, g):
    """y = x Wᵀ + b: the gradients of W, b and x, one after the other."""
    return g.T @ x, g.sum(0), g @ weight


def _zero_conv_cases(g):
    for pixels, channels, out, begun in ((1, 1, 1, False), (5, 3, 2, False), (4, 2, 3, True)):
        x, dy = _normal(g, pixels, channels), _normal(g, pixels, out)
        weight = _normal(g, out, channels)
        yield weight if begun else torch.zeros_like(weight), x, dy


# ---- ControlNet: how much of what it adds is taken ----------------------------------------


def _control_scales(strength, guess, connections=13):
    share = 0.825 if guess else 1.0
    return [strength * share ** (connections - 1 - i) for i in range(connections)]


def _scale_cases(g):
    for strength in (1.0, 0.5, 1.7):
        for guess in (False, True):
            yield strength, guess


EXERCISES = {
    "lora_change": Exercise(
        lora_delta,
        _delta_cases,
        {
            "α is divided by the rank: the factor is α/r": lambda a, b, alpha: alpha * (b @ a),
            "The factor α/r is missing": lambda a, b, alpha: b @ a,
            "α/r is turned over": lambda a, b, alpha: len(a) / alpha * (b @ a),
            "This is ΔW transposed: it must have W's shape, (out, in)": lambda a, b, alpha: (
                alpha / len(a) * (b @ a).T
            ),
            "The rank is the size that A and B share, not the size of the input": (
                lambda a, b, alpha: alpha / a.shape[1] * (b @ a)
            ),
            "The factor is α/r, without a root": lambda a, b, alpha: (
                alpha / len(a) ** 0.5 * (b @ a)
            ),
        },
        level="easy",
        goal="multiply the two factors of a LoRA",
    ),
    "lora_forward": Exercise(
        _forward,
        _forward_cases,
        {
            "The frozen layer's W x is missing": lambda x, w, a, b, alpha, s: _forward(
                x, 0 * w, a, b, alpha, s
            ),
            "The scale belongs to the change alone, not to W x": lambda x, w, a, b, alpha, s: (
                s * _forward(x, w, a, b, alpha, 1.0)
            ),
            "The scale is missing": lambda x, w, a, b, alpha, s: _forward(x, w, a, b, alpha, 1.0),
            "The factor α/r is missing": lambda x, w, a, b, alpha, s: _forward(
                x, w, a, b, len(a), s
            ),
            "α is divided by the rank: the factor is α/r": lambda x, w, a, b, alpha, s: _forward(
                x, w, a, b, alpha * len(a), s
            ),
            "W x stays whole, whatever the scale is: this mixes the two": (
                lambda x, w, a, b, alpha, s: _forward(x, (1 - s) * w, a, b, alpha, s)
            ),
            "The rank is the size that A and B share, not the size of the input": (
                lambda x, w, a, b, alpha, s: _forward(x, w, a, b, alpha * len(a) / a.shape[1], s)
            ),
        },
        level="easy",
        goal="put a LoRA beside a layer",
    ),
    "lora_parameters": Exercise(
        _parameters,
        _parameters_cases,
        {
            "This counts the layers' own weights: A has r·in and B has out·r": lambda sizes, r: sum(
                out * inward for out, inward in sizes
            ),
            "A is (r, in) and B is (out, r): add their sizes, do not multiply": lambda sizes, r: (
                sum(r * inward * out for out, inward in sizes)
            ),
            "B is missing: it has out·r numbers": lambda sizes, r: sum(r * i for _, i in sizes),
            "A is missing: it has r·in numbers": lambda sizes, r: sum(r * o for o, _ in sizes),
            "The rank is missing: each of A's rows is as long as the input": lambda sizes, r: sum(
                inward + out for out, inward in sizes
            ),
            "Each matrix is counted once, not twice": lambda sizes, r: 2 * _parameters(sizes, r),
        },
        level="easy",
        goal="count what a LoRA trains",
    ),
    "lora_gradients": Exercise(
        _gradients,
        _gradients_cases,
        {
            "The factor α/r is missing": lambda x, dy, a, b, alpha: _gradients(x, dy, a, b, len(a)),
            "α is divided by the rank: the factor is α/r": lambda x, dy, a, b, alpha: _gradients(
                x, dy, a, b, alpha * len(a)
            ),
            "The two are in the wrong order: A's gradient comes first": lambda *given: _gradients(
                *given
            )[::-1],
            "The gradients are sums over the batch, not means": lambda x, dy, a, b, alpha: tuple(
                part / len(x) for part in _gradients(x, dy, a, b, alpha)
            ),
            "Both are transposed: a gradient has the shape of its matrix": lambda *given: tuple(
                part.T for part in _gradients(*given)
            ),
            "The factor α/r is missing in A's gradient": lambda x, dy, a, b, alpha: (
                _gradients(x, dy, a, b, len(a))[0],
                _gradients(x, dy, a, b, alpha)[1],
            ),
            "The factor α/r is missing in B's gradient": lambda x, dy, a, b, alpha: (
                _gradients(x, dy, a, b, alpha)[0],
                _gradients(x, dy, a, b, len(a))[1],
            ),
            "The factor α/r comes in once, and here it is squared": lambda x, dy, a, b, alpha: (
                _gradients(x, dy, a, b, alpha**2 / len(a))
            ),
            "The rank is the size that A and B share, not the size of the input": (
                lambda x, dy, a, b, alpha: _gradients(x, dy, a, b, alpha * len(a) / a.shape[1])
            ),
            "B begins as 0, so A's gradient is 0 there, but B's is not": (
                lambda x, dy, a, b, alpha: (
                    _gradients(x, dy, a, b, alpha)[0],
                    _gradients(x, dy, a, b, alpha)[1] * bool(b.any()),
                )
            ),
        },
        level="hard",
        goal="see which factor learns first, and why",
    ),
    "embed_new": Exercise(
        embed_with_words,
        _embed_cases,
        {
            "New words come after the vocabulary: the first has the id V": lambda ids, table, new: (
                torch.cat([new, table])[ids]
            ),
            "Each new token has a row of its own: the id minus V": lambda ids, table, new: (
                torch.cat([table, new[:1].expand_as(new)])[ids]
            ),
            "The rows of the new words are the other way round": lambda ids, table, new: torch.cat(
                [table, new.flip(0)]
            )[ids],
            "One row too low: the first new word, of the id V, has the row 0 of `vectors`": (
                lambda ids, table, new: torch.cat([table, new.roll(1, 0)])[ids]
            ),
            "The new tokens' vectors are left at 0": lambda ids, table, new: torch.cat(
                [table, 0 * new]
            )[ids],
        },
        level="easy",
        goal="look up a new word",
    ),
    "old_rows_back": Exercise(
        _old_rows,
        _old_rows_cases,
        {
            "The two are exchanged: the old rows are restored, and the new ones stay trained": (
                lambda before, after, first: torch.cat([after[:first], before[first:]])
            ),
            "All rows are restored: then nothing is learned": lambda before, after, first: before,
            "No row is restored: weight decay alone would change all words": (
                lambda before, after, first: after
            ),
            "One row too many is restored: the first new row has the number `first`": (
                lambda before, after, first: _old_rows(before, after, first + 1)
            ),
            "One row too few is restored: the last old row has the number first - 1": (
                lambda before, after, first: _old_rows(before, after, first - 1)
            ),
        },
        level="easy",
        goal="train one word and keep all others",
    ),
    "end_with_words": Exercise(
        _end,
        _end_cases,
        {
            "The largest id is a new word's here, not the end token's": lambda ids, end: ids.argmax(
                1
            ),
            "Where the end token is also the pad, the first one counts": lambda ids, end: (
                ids.shape[1] - 1 - (ids == end).flip(1).int().argmax(1)
            ),
            "This is the last place of the row, which may be padding": lambda ids, end: torch.full(
                (len(ids),), ids.shape[1] - 1
            ),
            "This is the word before the end token": lambda ids, end: _end(ids, end) - 1,
            "This counts the tokens that are not the end's, and there may be some behind it": (
                lambda ids, end: (ids != end).sum(1)
            ),
        },
        level="middle",
        goal="avoid a trap of added tokens",
    ),
    "prior_loss": Exercise(
        _prior_loss,
        _prior_cases,
        {
            "λ weighs the prior's half, not the new one": lambda e, w: _prior_loss(
                e.roll(len(e) // 2), w
            ),
            "λ is missing": lambda e, w: _prior_loss(e, 1.0),
            "This is the mean over all: each half has a mean of its own, and they are added": (
                lambda e, w: _prior_loss(e, w) / 2
            ),
            "The sum is not divided by 1 + λ": lambda e, w: _prior_loss(e, w) / (1 + w),
            "The new half keeps its whole weight: it is not 1 - λ": lambda e, w: (
                _prior_loss(e, w) - w * e.chunk(2)[0].mean()
            ),
            "One number is wanted: take the mean of each half": lambda e, w: (
                e.chunk(2)[0] + w * e.chunk(2)[1]
            ),
            "Take the means over the halves, not sums": lambda e, w: (
                _prior_loss(e, w) * (len(e) // 2)
            ),
            "The prior's half is missing": lambda e, w: e.chunk(2)[0].mean(),
            "The new pictures are the first half, not every second one": lambda e, w: (
                e[::2].mean() + w * e[1::2].mean()
            ),
        },
        level="middle",
        goal="add DreamBooth's prior preservation loss",
    ),
    "zero_conv_gradients": Exercise(
        _zero_conv_gradients,
        _zero_conv_cases,
        {
            "A weight of 0 does not make its own gradient 0: it is the input times the gradient of "
            "the output, summed over the pixels": lambda w, x, g: (0 * w, g.sum(0), g @ w),
            "x is not scaled by g here: its gradient is g times the weight, which is 0 at first": (
                lambda w, x, g: (g.T @ x, g.sum(0), g @ torch.ones_like(w))
            ),
            "Sum over the pixels; do not take the mean": lambda w, x, g: (
                g.T @ x / len(x),
                g.mean(0),
                g @ w,
            ),
            "The order is W, b, x": lambda w, x, g: (g @ w, g.T @ x, g.sum(0)),
            "The bias' gradient is a sum over the pixels, not a mean": lambda w, x, g: (
                g.T @ x,
                g.mean(0),
                g @ w,
            ),
            "The bias is one for all pixels: sum its gradient over them": lambda w, x, g: (
                g.T @ x,
                g,
                g @ w,
            ),
            "The bias is added at every pixel, so its gradient is the sum of g over the pixels": (
                lambda w, x, g: (g.T @ x, torch.ones(g.shape[1], dtype=g.dtype), g @ w)
            ),
            "The weight's gradient has the weight's shape, (out, in): the transpose of this": (
                lambda w, x, g: (x.T @ g, g.sum(0), g @ w)
            ),
        },
        level="middle",
        goal="see why a zero convolution learns although it gives 0",
    ),
    "control_scales": Exercise(
        _control_scales,
        _scale_cases,
        {
            "The last connection, the middle's, keeps all of it: the exponent is 12 - i": (
                lambda strength, guess: _control_scales(strength, guess)[::-1]
            ),
            "The exponent of the last connection is 0, so it is 12 - i, not 13 - i": (
                lambda strength, guess: [
                    strength * (0.825 if guess else 1) ** (13 - i) for i in range(13)
                ]
            ),
            "The power is of 0.825 alone, and the strength comes once": lambda strength, guess: [
                (0.825 * strength) ** (12 - i) if guess else strength for i in range(13)
            ],
            "In guess mode, too, the strength multiplies every scale": lambda strength, guess: (
                _control_scales(1.0 if guess else strength, guess)
            ),
            "Without guess mode all 13 scales are the strength": lambda strength, guess: (
                _control_scales(strength, True)
            ),
            "There are 13 connections: twelve skips and the middle": lambda strength, guess: (
                _control_scales(strength, guess, 12)
            ),
        },
        level="easy",
        goal="compute how much of each connection the official code takes, with guess mode",
    ),
}

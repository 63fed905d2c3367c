"""Exercises of notebook 12."""

import math

import torch
import torch.nn.functional as F

from ..checking import Exercise

START, END = 49406, 49407

# ---- merges -------------------------------------------------------------------------------


def _pairs(ids):
    return list(zip(ids, ids[1:], strict=False))


def _join(ids, pair, new, most=None):
    """Each occurrence of the pair from left to right, or the first `most` of them."""
    out, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair and most != 0:
            out.append(new)
            most = most and most - 1
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def _bpe_step(choose=min, most=None, by_rank=True, first=512):
    """One merge of a word, and its slips."""

    def step(ids, merges):
        known = [pair for pair in _pairs(ids) if pair in merges]
        if not known:
            return list(ids)
        pair = choose(known, key=merges.index) if by_rank else known[0]
        return _join(ids, pair, first + merges.index(pair), most)

    return step


def _all_merges(ids, merges):
    while (after := _bpe_step()(ids, merges)) != list(ids):
        ids = after
    return list(ids)


def _bpe_cases(g):
    merges = ((7, 8), (5, 5), (512, 9), (4, 5), (3, 4), (514, 9), (8, 7))
    for ids in [
        (3, 4, 5, 7, 8),
        (4, 5, 8, 7),
        (7, 8, 9, 7, 8, 9, 1),
        (512, 9, 4, 5),
        (5, 5, 5, 5, 5),
        (1, 2),
        (3,),
        (8, 7, 8, 7, 8, 4, 5),
    ]:
        yield ids, merges


# ---- a row of 77 --------------------------------------------------------------------------


def _whole_words(counts, room=75):
    total, kept = 0, 0
    for count in counts:
        total += count
        if total > room:
            break
        kept += 1
    return kept


def _words_touched(counts):
    total = 0
    for kept, count in enumerate(counts):
        if total >= 75:
            return kept
        total += count
    return len(counts)


def _words_that_fit(counts):
    """As if a word that does not fit were skipped."""
    total, kept = 0, 0
    for count in counts:
        if total + count <= 75:
            total, kept = total + count, kept + 1
    return kept


def _words_cases(g):
    yield from [((1, 1, 1),), ((),), ((1,) * 75,), ((1,) * 76,), ((1,) * 90,), ((25, 25, 25, 1),)]
    yield from [((25, 25, 26, 1),), ((80, 1),), ((2,) * 38,), ((3,) * 25 + (1,),)]
    for _ in range(4):
        yield (tuple(torch.randint(1, 5, (60,), generator=g).tolist()),)


def _token_row(ids, length, pad):
    row = [START, *ids[: length - 2], END]
    return row + [pad] * (length - len(row))


def _end_behind_the_pad(ids, length, pad):
    row = [START, *ids[: length - 2]]
    return row + [pad] * (length - 1 - len(row)) + [END]


def _row_cases(g):
    for n, length in [(2, 7), (0, 5), (5, 7), (9, 7), (6, 7), (3, 77), (100, 77)]:
        ids = tuple(torch.randint(1, 40000, (n,), generator=g).tolist())
        yield from [(ids, length, END), (ids, length, 0)]


def _prompt_rows(
    order=lambda prompts, negatives: [*negatives, *prompts],
    row=lambda ids: _token_row(ids, 77, END),
):
    """The rows of a batch for guidance; the arguments are slips."""
    return lambda prompts, negatives: torch.tensor([row(i) for i in order(prompts, negatives)])


def _prompt_cases(g):
    for lengths in [(2, 5, 1, 3, 1, 4), (75, 76, 90, 3, 76, 80), (4, 9, 12, 0, 0, 0), (80, 3)]:
        ids = [tuple(torch.randint(1, 40000, (n,), generator=g).tolist()) for n in lengths]
        yield ids[: len(ids) // 2], ids[len(ids) // 2 :]


# ---- the causal mask ----------------------------------------------------------------------


def _rows_that_differ(a, b):
    return (a != b).cumsum(0) > 0


def _rows_cases(g):
    yield torch.tensor([1, 2, 3, 4, 5]), torch.tensor([1, 2, 9, 4, 5])
    yield torch.tensor([1, 2, 3, 4, 5]), torch.tensor([1, 2, 3, 4, 5])
    yield torch.tensor([1, 2, 3, 4, 5]), torch.tensor([7, 2, 3, 4, 5])
    yield torch.tensor([1, 2, 3, 4, 5]), torch.tensor([1, 2, 3, 4, 6])
    a = torch.randint(0, END, (77,), generator=g)
    b = a.clone()
    b[[30, 31, 50]] += 1
    yield a, b


# ---- the layers ---------------------------------------------------------------------------


def _gelu_gap(x):
    return F.gelu(x) - x * torch.sigmoid(1.702 * x)


def _gelu_cases(g):
    yield (torch.linspace(-6, 6, 49, dtype=torch.float64),)
    yield (torch.randn(3, 4, dtype=torch.float64, generator=g),)
    yield (torch.tensor(-2.27, dtype=torch.float64),)


def _norm(x):
    return F.layer_norm(x, x.shape[-1:])


def _over_tokens(x):
    return (x - x.mean(-2, keepdim=True)) / (x.var(-2, keepdim=True, correction=0) + 1e-5).sqrt()


def _variance(x, correction=0):
    return x.var(-1, keepdim=True, correction=correction) + 1e-5


def _text_context(layers=(-1, -2, -2), norms=(True, True, False), norm=_norm):
    """Which state is the context, and its slips."""

    def context(states, family):
        i = ("sd1", "sd2", "sdxl").index(family)
        return norm(states[layers[i]]) if norms[i] else states[layers[i]]

    return context


def _context_cases(g):
    for layers, n, width in [(12, 5, 8), (3, 4, 6)]:
        for family in ("sd1", "sd2", "sdxl"):
            shape = (layers + 1, n, width)
            yield 1 + 3 * torch.randn(shape, dtype=torch.float64, generator=g), family


def _end_position(ids):
    return (ids == END).int().argmax(1)


def _end_cases(g):
    rows = [
        [START, 320, 2368, END, END, END, END],
        [START, END, END, END, END, END, END],
        [START, 320, 736, 7117, 531, 518, END],
    ]
    yield (torch.tensor(rows),)
    yield (torch.tensor(rows).masked_fill(torch.tensor(rows) == END, 0).index_fill(1, _at(6), END),)
    yield (torch.tensor([[START, 320, 2368, END, 0, 0], [START, END, 0, 0, 0, 0]]),)
    yield (torch.tensor([[START, 320, END + 1, END + 2, 2368, END, END], rows[0]]),)
    yield (torch.tensor([[START, END + 5, 320, END, 0, 0, 0]]),)


def _at(i):
    return torch.tensor([i])


# ---- pairs ------------------------------------------------------------------------------


def _contrastive(p, t, scale, unit=True, ways=(1, 0), total=torch.mean):
    if unit:
        p, t = (x / x.norm(dim=1, keepdim=True) for x in (p, t))
    scores = scale * p @ t.T
    return sum(total(scores.logsumexp(way) - scores.diagonal()) for way in ways) / len(ways)


def _shares(p, t, scale, way):
    p, t = (x / x.norm(dim=1, keepdim=True) for x in (p, t))
    return (scale * p @ t.T).softmax(way)


def _pair_cases(g):
    for n, d, scale in ((5, 3, 14.3), (8, 4, 2.0), (3, 6, 1.0), (2, 2, 30.0)):
        p, t = (torch.randn(n, d, dtype=torch.float64, generator=g) for _ in range(2))
        yield 2 * p, p + 3 * t, scale


EXERCISES = {
    "bpe_step": Exercise(
        _bpe_step(),
        _bpe_cases,
        {
            "this joins the leftmost known pair; join the known pair that was learned first": (
                _bpe_step(by_rank=False)
            ),
            "the merge that was learned first is joined, not the last": _bpe_step(max),
            "the chosen pair is joined wherever it stands, not only once": _bpe_step(most=1),
            "the tokens of the merges begin at 512: two sets of 256 bytes come first": _bpe_step(
                first=0
            ),
            "the tokens of the merges begin at 512, not 256: the bytes are there twice": _bpe_step(
                first=256
            ),
            "merge number r makes the token 512 + r, and the first merge has the number 0": (
                _bpe_step(first=513)
            ),
            "this joins all known pairs one after another; one step joins one pair": _all_merges,
        },
        level="middle",
        goal="do one merge of byte-pair encoding",
    ),
    "token_row": Exercise(
        _token_row,
        _row_cases,
        {
            "a prompt that is too long loses its end token here; cut the prompt instead": (
                lambda i, n, p: ([START, *i, END] + [p] * n)[:n]
            ),
            "the end token follows the prompt, and the padding comes after it": _end_behind_the_pad,
            "this always pads with the end token; use `pad`": lambda i, n, p: _token_row(i, n, END),
            "this always pads with 0; use `pad`": lambda i, n, p: _token_row(i, n, 0),
            "the row begins with the start token": lambda i, n, p: (
                [*i[: n - 1], END] + [p] * (n - 1 - len(i))
            ),
            "the end token is missing after the prompt": lambda i, n, p: (
                [START, *i[: n - 1]] + [p] * (n - 1 - len(i))
            ),
            "the prompt may take length - 2 places, and here one place is lost": lambda i, n, p: (
                _token_row(i[: n - 3], n, p)
            ),
            "the padding is missing: the row has `length` ids": lambda i, n, p: (
                [START, *i[: n - 2], END]
            ),
            "a long prompt is cut to length - 2, and here the row becomes too long": (
                lambda i, n, p: [START, *i, END] + [p] * (n - 2 - len(i))
            ),
        },
        level="easy",
        goal="make the row of 77 tokens from a prompt",
    ),
    "whole_words": Exercise(
        _whole_words,
        _words_cases,
        {
            "start and end take two of the 77 places": lambda c: _whole_words(c, 77),
            "start and end take one place each, so 75 are left and not 76": lambda c: _whole_words(
                c, 76
            ),
            "exactly 75 tokens still fit": lambda c: _whole_words(c, 74),
            "the places are counted in tokens, not in words": lambda c: min(len(c), 75),
            "the places are counted in tokens, not in words, and there are 75": lambda c: min(
                len(c), 77
            ),
            "a word that is cut in the middle is not whole": _words_touched,
            "the row ends at the first word that does not fit; no later word comes in": (
                _words_that_fit
            ),
            "this counts tokens; count words": lambda c: min(sum(c), 75),
        },
        level="middle",
        goal="find where a long prompt is cut",
    ),
    "prompt_rows": Exercise(
        _prompt_rows(),
        _prompt_cases,
        {
            "the negative prompts come first, then the prompts": _prompt_rows(
                order=lambda p, n: [*p, *n]
            ),
            "all negative prompts come before all prompts; here they alternate": _prompt_rows(
                order=lambda p, n: [row for pair in zip(n, p, strict=True) for row in pair]
            ),
            "all negative prompts come before all prompts; here they alternate, and the prompts "
            "are first": _prompt_rows(
                order=lambda p, n: [row for pair in zip(p, n, strict=True) for row in pair]
            ),
            "the rows keep their order within each half": _prompt_rows(
                order=lambda p, n: [*n[::-1], *p[::-1]]
            ),
            "each prompt has a negative prompt of its own; this repeats the first one": (
                _prompt_rows(order=lambda p, n: [n[0]] * len(n) + [*p])
            ),
            "only the prompts are here; the negative prompts are missing": _prompt_rows(
                order=lambda p, n: [*p]
            ),
            "SD 1 pads with the end token, not with 0": _prompt_rows(
                row=lambda i: _token_row(i, 77, 0)
            ),
            "the negative prompts come first, and SD 1 pads with the end token, not with 0": (
                _prompt_rows(lambda p, n: [*p, *n], lambda i: _token_row(i, 77, 0))
            ),
            "a long prompt is cut to 75 ids, and here its row becomes too long": lambda p, n: [
                [START, *i, END] + [END] * (75 - len(i)) for i in (*n, *p)
            ],
            "a prompt that is too long loses its end token here; cut the prompt instead": (
                _prompt_rows(row=lambda i: ([START, *i] + [END] * 77)[:77])
            ),
            "each row begins with the start token": _prompt_rows(
                row=lambda i: ([*i[:76]] + [END] * 77)[:77]
            ),
            "75 ids of a long prompt fit, and here fewer are kept": _prompt_rows(
                row=lambda i: _token_row(i[:74], 77, END)
            ),
            "the padding is the end token; this pads with the start token": _prompt_rows(
                row=lambda i: _token_row(i, 77, START)
            ),
            "the end token follows the prompt, and the padding comes after it": _prompt_rows(
                row=lambda i: _end_behind_the_pad(i[:75], 77, 0)
            ),
        },
        level="middle",
        goal="build the batch of token rows for guidance",
    ),
    "rows_that_differ": Exercise(
        _rows_that_differ,
        _rows_cases,
        {
            "the rows after a changed token differ too, because they attend to it": lambda a, b: (
                a != b
            ),
            "the rows before the first changed token cannot differ: the mask hides it": (
                lambda a, b: torch.full(a.shape, bool((a != b).any()))
            ),
            "the direction is turned: the rows after a changed token attend to it": lambda a, b: (
                (a != b).flip(0).cumsum(0).flip(0) > 0
            ),
            "the changed token's own row differs too": lambda a, b: (
                (a != b).cumsum(0) - (a != b).int() > 0
            ),
            "the answer is turned: these are the places that cannot differ": lambda a, b: (
                (a != b).cumsum(0) == 0
            ),
            "these are counts; a truth value says whether a count is above 0": lambda a, b: (
                a != b
            ).cumsum(0),
            "only the row right after a changed token is added; all later rows differ": (
                lambda a, b: (a != b) | torch.cat([torch.tensor([False]), (a != b)[:-1]])
            ),
        },
        level="middle",
        goal="see what the causal mask lets a change reach",
    ),
    "gelu_gap": Exercise(
        _gelu_gap,
        _gelu_cases,
        {
            "the sign is turned: GELU minus quick-GELU": lambda x: -_gelu_gap(x),
            "in quick-GELU, 1.702 stands inside the sigmoid only": lambda x: (
                F.gelu(x) - 1.702 * x * torch.sigmoid(1.702 * x)
            ),
            "quick-GELU has 1.702 in the sigmoid; without it, it is SiLU": lambda x: (
                F.gelu(x) - F.silu(x)
            ),
            "GELU's tanh formula is an approximation too; take the error function": lambda x: (
                F.gelu(x, approximate="tanh") - x * torch.sigmoid(1.702 * x)
            ),
            "the root of 2 is missing: Φ(x) has erf(x / √2)": lambda x: (
                x * (1 + torch.erf(x)) / 2 - x * torch.sigmoid(1.702 * x)
            ),
            "Φ(x) has the factor 1/2 before 1 + erf": lambda x: (
                x * (1 + torch.erf(x / math.sqrt(2))) - x * torch.sigmoid(1.702 * x)
            ),
            "the factor x is missing: these are Φ(x) and the sigmoid alone": lambda x: (
                (1 + torch.erf(x / math.sqrt(2))) / 2 - torch.sigmoid(1.702 * x)
            ),
            "the gap has a sign; do not take its size": lambda x: _gelu_gap(x).abs(),
            "this is GELU alone; subtract quick-GELU": F.gelu,
            "Φ(x) has 1 + erf, not erf alone": lambda x: (
                x * torch.erf(x / math.sqrt(2)) / 2 - x * torch.sigmoid(1.702 * x)
            ),
        },
        level="easy",
        goal="tell GELU and quick-GELU apart",
    ),
    "text_context": Exercise(
        _text_context(),
        _context_cases,
        {
            "SDXL reads its state without the norm": _text_context(norms=(True, True, True)),
            "SD 2 applies the norm to the penultimate state": _text_context(
                norms=(True, False, False)
            ),
            "SD 1 applies the norm to the last state": _text_context(norms=(False, True, False)),
            "no norm is applied, but SD 1 and SD 2 have one": _text_context(
                norms=(False, False, False)
            ),
            "only SD 1 reads the last layer": _text_context((-1, -1, -1)),
            "SD 1 reads the last layer, not the penultimate": _text_context((-2, -2, -2)),
            "SD 2 reads the penultimate layer": _text_context((-1, -1, -2)),
            "SDXL reads the penultimate layer": _text_context((-1, -2, -1)),
            "the penultimate state is states[-2], one before the last": _text_context((-1, -3, -3)),
            "the norm is over the width of each token, not over the tokens": _text_context(
                norm=_over_tokens
            ),
            "the norm divides by the standard deviation, not by the variance": _text_context(
                norm=lambda x: (x - x.mean(-1, keepdim=True)) / _variance(x)
            ),
            "the norm subtracts the mean first": _text_context(
                norm=lambda x: x / _variance(x).sqrt()
            ),
            "the variance is the mean of the squares; here it is divided by width - 1": (
                _text_context(
                    norm=lambda x: (x - x.mean(-1, keepdim=True)) / _variance(x, 1).sqrt()
                )
            ),
        },
        level="middle",
        goal="know which layer each family reads",
    ),
    "end_position": Exercise(
        _end_position,
        _end_cases,
        {
            "argmax of the ids finds an added token, whose id is larger: look for 49407": (
                lambda ids: ids.argmax(1)
            ),
            "SD 1 pads with end tokens: take the first of them, not the last": lambda ids: (
                ids.shape[1] - 1 - (ids == END).flip(1).int().argmax(1)
            ),
            "this is the place before the end token": lambda ids: _end_position(ids) - 1,
            "this is the place after the end token; places are counted from 0": lambda ids: (
                _end_position(ids) + 1
            ),
            "end tokens come before the last place, too: this is always the row's end": (
                lambda ids: torch.full((len(ids),), ids.shape[1] - 1)
            ),
            "this counts the end tokens; return the place of the first": lambda ids: (
                ids == END
            ).sum(1),
            "the added tokens have larger ids, so compare with ==, not with >=": lambda ids: (
                (ids >= END).int().argmax(1)
            ),
            "each row has its own end: search along the places, dimension 1": lambda ids: (
                (ids == END).int().argmax(0)
            ),
            "this counts the ids before 49407 in size; added tokens are larger": lambda ids: (
                ids < END
            ).sum(1),
        },
        level="easy",
        goal="find the end token when the vocabulary grows",
    ),
    "contrastive_loss": Exercise(
        _contrastive,
        _pair_cases,
        {
            "the captions choose among the pictures as well: the columns count, too": (
                lambda p, t, scale: _contrastive(p, t, scale, ways=(1,))
            ),
            "the pictures choose among the captions as well: the rows count, too": (
                lambda p, t, scale: _contrastive(p, t, scale, ways=(0,))
            ),
            "p and t are divided by their lengths first": lambda p, t, scale: _contrastive(
                p, t, scale, unit=False
            ),
            "each of the two parts is a mean over the n pairs, not a sum": lambda p, t, scale: (
                _contrastive(p, t, scale, total=torch.sum)
            ),
            "the scores are multiplied by the scale, not divided": lambda p, t, scale: _contrastive(
                p, t, 1 / scale
            ),
            "the scale is missing": lambda p, t, scale: _contrastive(p, t, 1.0),
            "the scale is e^τ already; do not take exp of it": lambda p, t, scale: _contrastive(
                p, t, math.exp(scale)
            ),
            "the captions choose among the pictures as well, so the columns give the second half": (
                lambda p, t, scale: _contrastive(p, t, scale, ways=(1,)) / 2
            ),
            "the loss is half the sum of the two parts": lambda p, t, scale: (
                2 * _contrastive(p, t, scale)
            ),
            "the sign is turned: the loss is -log of the shares": lambda p, t, scale: (
                -_contrastive(p, t, scale)
            ),
            "the logarithm is taken of each pair's share, before the mean": lambda p, t, scale: (
                -sum(_shares(p, t, scale, way).diagonal().mean().log() for way in (0, 1)) / 2
            ),
        },
        level="middle",
        goal="write the loss that CLIP's two encoders were trained with",
    ),
}

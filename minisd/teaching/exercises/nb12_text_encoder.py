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


# ---- the causal mask ----------------------------------------------------------------------


def _scores(q, k):
    return q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])


def _later(n, diagonal=1):
    return torch.ones(n, n, dtype=torch.bool).triu(diagonal)


def _causal(q, k, v):
    return _scores(q, k).masked_fill(_later(q.shape[-2]), -math.inf).softmax(-1) @ v


def _causal_cases(g):
    for shape, d in [((5, 4), 4), ((1, 3), 2), ((2, 6, 8), 8), ((77, 4), 3)]:
        q, k = torch.randn(2, *shape, dtype=torch.float64, generator=g)
        yield q, k, torch.randn(*shape[:-1], d, dtype=torch.float64, generator=g)


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


# ---- parameters ---------------------------------------------------------------------------


def _text_parameters(positions=True, bias=True, norms=True, final=True, out=True, shift=True):
    """Parameters of a CLIPText, and of one with a part left out."""

    def count(width, layers, vocabulary, length):
        embeddings = vocabulary * width + positions * length * width
        attention = (4 if out else 3) * (width**2 + bias * width)
        mlp = 2 * 4 * width**2 + bias * (4 * width + width)
        norm = (1 + shift) * width
        return embeddings + layers * (attention + mlp + norms * 2 * norm) + final * norm

    return count


def _parameter_cases(g):
    yield from [(768, 12, 49408, 77), (1024, 24, 49408, 77), (32, 2, 100, 16), (8, 1, 5, 4)]


def _contrastive(p, t, scale, unit=True, ways=(1, 0), total=torch.mean):
    if unit:
        p, t = (x / x.norm(dim=1, keepdim=True) for x in (p, t))
    scores = scale * p @ t.T
    return sum(total(scores.logsumexp(way) - scores.diagonal()) for way in ways) / len(ways)


def _pair_cases(g):
    for n, d, scale in ((5, 3, 14.3), (8, 4, 2.0), (3, 6, 1.0), (2, 2, 30.0)):
        p, t = (torch.randn(n, d, dtype=torch.float64, generator=g) for _ in range(2))
        yield 2 * p, p + 3 * t, scale


EXERCISES = {
    "bpe_step": Exercise(
        _bpe_step(),
        _bpe_cases,
        {
            "not the leftmost pair that is known, but the one learned first": _bpe_step(
                by_rank=False
            ),
            "the merge learned first wins, not the last": _bpe_step(max),
            "the chosen pair is joined wherever it stands, not only once": _bpe_step(most=1),
            "the tokens of the merges begin at 512: two sets of 256 bytes come first": _bpe_step(
                first=0
            ),
        },
        level="middle",
        goal="do one merge of byte-pair encoding",
    ),
    "token_row": Exercise(
        _token_row,
        _row_cases,
        {
            "a prompt that is too long loses its end token; keep it": lambda i, n, p: (
                [START, *i, END] + [p] * n
            )[:n],
            "the end token stands behind the prompt, before the padding": _end_behind_the_pad,
            "pad is not always the end token": lambda i, n, p: _token_row(i, n, END),
            "pad is not always 0": lambda i, n, p: _token_row(i, n, 0),
            "the row begins with the start token": lambda i, n, p: (
                [*i[: n - 1], END] + [p] * (n - 1 - len(i))
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
            "start and end both need a place, not one of them": lambda c: _whole_words(c, 76),
            "the places are counted in tokens, not in words": lambda c: min(len(c), 75),
            "a word that is cut in the middle is not whole": _words_touched,
        },
        level="middle",
        goal="find where a long prompt is cut",
    ),
    "causal_attention": Exercise(
        _causal,
        _causal_cases,
        {
            "mask before the softmax: after it the rows no longer sum to 1": lambda q, k, v: (
                _scores(q, k).softmax(-1).masked_fill(_later(q.shape[-2]), 0) @ v
            ),
            "a score of 0 is no mask: e^0 = 1; what shall weigh nothing needs -inf": (
                lambda q, k, v: _scores(q, k).masked_fill(_later(q.shape[-2]), 0).softmax(-1) @ v
            ),
            "upside down: this lets a token see the later ones": lambda q, k, v: (
                _scores(q, k).masked_fill(_later(q.shape[-2]).mT, -math.inf).softmax(-1) @ v
            ),
            "a token sees itself too": lambda q, k, v: (
                _scores(q, k).masked_fill(_later(q.shape[-2], 0), -math.inf).softmax(-1) @ v
            ),
            "the scores are divided by the root of d": lambda q, k, v: _causal(
                q * math.sqrt(q.shape[-1]), k, v
            ),
            "the mask is missing": lambda q, k, v: _scores(q, k).softmax(-1) @ v,
        },
        level="middle",
        goal="write attention that cannot look ahead",
    ),
    "rows_that_differ": Exercise(
        _rows_that_differ,
        _rows_cases,
        {
            "later tokens see the changed one too": lambda a, b: a != b,
            "the tokens before the change cannot see it": lambda a, b: torch.full(
                a.shape, bool((a != b).any())
            ),
            "the wrong way round: who sees the changed token stands after it": lambda a, b: (
                (a != b).flip(0).cumsum(0).flip(0) > 0
            ),
            "the changed token's own row differs too": lambda a, b: (
                (a != b).cumsum(0) - (a != b).int() > 0
            ),
        },
        level="middle",
        goal="see what the causal mask lets a change reach",
    ),
    "gelu_gap": Exercise(
        _gelu_gap,
        _gelu_cases,
        {
            "the sign: exact minus quick": lambda x: -_gelu_gap(x),
            "quick_gelu's 1.702 stands inside the sigmoid only": lambda x: (
                F.gelu(x) - 1.702 * x * torch.sigmoid(1.702 * x)
            ),
            "quick_gelu has 1.702 in the sigmoid; without it, it is SiLU": lambda x: (
                F.gelu(x) - F.silu(x)
            ),
            "GELU's tanh formula is an approximation as well; take the error function": lambda x: (
                F.gelu(x, approximate="tanh") - x * torch.sigmoid(1.702 * x)
            ),
            "the normal distribution's is erf(x / root 2)": lambda x: (
                x * (1 + torch.erf(x)) / 2 - x * torch.sigmoid(1.702 * x)
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
            "SD 2 does apply the last norm, to the penultimate state": _text_context(
                norms=(True, False, False)
            ),
            "SD 1 applies the last norm too": _text_context(norms=(False, True, False)),
            "only SD 1 reads the last layer": _text_context((-1, -1, -1)),
            "penultimate is one before the last, states[-2]": _text_context((-1, -3, -3)),
            "the norm is over the width of each token, not over the tokens": _text_context(
                norm=_over_tokens
            ),
        },
        level="middle",
        goal="know which layer each family reads",
    ),
    "end_position": Exercise(
        _end_position,
        _end_cases,
        {
            "argmax of the ids breaks as soon as a token is added: look for the end token": (
                lambda ids: ids.argmax(1)
            ),
            "SD 1 pads with end tokens: take the first of them, not the last": lambda ids: (
                ids.shape[1] - 1 - (ids == END).flip(1).int().argmax(1)
            ),
            "the end token itself, not the last word": lambda ids: _end_position(ids) - 1,
            "rows have places 0 to n - 1": lambda ids: _end_position(ids) + 1,
        },
        level="easy",
        goal="find the end token when the vocabulary grows",
    ),
    "text_parameters": Exercise(
        _text_parameters(),
        _parameter_cases,
        {
            "the table of positions is missing": _text_parameters(positions=False),
            "the biases are missing": _text_parameters(bias=False),
            "the biases are missing, those of the norms too": _text_parameters(
                bias=False, shift=False
            ),
            "the norms have a bias as well as a scale": _text_parameters(shift=False),
            "each layer has two norms, with a scale and a shift each": _text_parameters(
                norms=False
            ),
            "the final norm is missing": _text_parameters(final=False),
            "attention has four matrices: q, k, v and the one on its output": _text_parameters(
                out=False
            ),
        },
        level="hard",
        goal="count the parameters of a text encoder",
    ),
    "contrastive_loss": Exercise(
        _contrastive,
        _pair_cases,
        {
            "captions choose among pictures as well: the columns count, too": lambda p, t, scale: (
                _contrastive(p, t, scale, ways=(1,))
            ),
            "pictures choose among captions as well: the rows count, too": lambda p, t, scale: (
                _contrastive(p, t, scale, ways=(0,))
            ),
            "p and t are divided by their lengths first": lambda p, t, scale: _contrastive(
                p, t, scale, unit=False
            ),
            "it is the mean over the n pairs, not the sum": lambda p, t, scale: _contrastive(
                p, t, scale, total=torch.sum
            ),
            "the scores are multiplied by the scale; a temperature would divide": (
                lambda p, t, scale: _contrastive(p, t, 1 / scale)
            ),
            "half the sum of the two ways": lambda p, t, scale: 2 * _contrastive(p, t, scale),
        },
        level="middle",
        goal="write the loss that CLIP's two encoders were trained with",
    ),
}

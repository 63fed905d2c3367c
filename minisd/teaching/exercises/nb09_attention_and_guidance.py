"""Exercises of notebook 09."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.blocks import attention
from ...models.clip import quick_gelu
from ..checking import Exercise


def _normal(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


# ---- attention ----------------------------------------------------------------------------


def _attention(q: Tensor, k: Tensor, v: Tensor, scale=None, over=-1, norm=True) -> Tensor:
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    weights = scores.softmax(over) if norm else scores.exp()
    return weights @ v


def _attention_cases(g):
    for n, m, d, e in [(3, 4, 2, 2), (1, 77, 40, 40), (5, 1, 3, 2), (4, 4, 16, 3)]:
        yield _normal(g, n, d), _normal(g, m, d), _normal(g, m, e)


def _repaired_cases(g):
    for d, d_used in [(40, 64), (80, 8), (160, 160), (64, 1)]:
        yield _normal(g, 4, 6), d, d_used


def _masked(how="right"):
    def attention(q, k, v, allowed):
        scores = q @ k.T / math.sqrt(q.shape[1])
        if how == "after":
            return scores.softmax(1).masked_fill(~allowed, 0) @ v
        hidden = allowed if how in ("inverted", "inverted, -1e9") else ~allowed
        low = {"zero": 0.0, "inverted, -1e9": -1e9}.get(how, -math.inf)
        return scores.masked_fill(hidden, low).softmax(1) @ v

    return attention


def _masked_cases(g):
    n, d, e = 5, 4, 3
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    padding = torch.tensor([True, True, True, False, False]).expand(n, n)
    for allowed in (causal, padding, torch.ones(n, n, dtype=torch.bool), causal & padding):
        yield _normal(g, n, d), _normal(g, n, d), _normal(g, n, e), allowed


def _heads(how="right"):
    def attention(q, k, v, heads):
        def split(a):
            b, n, c = a.shape
            if how == "mixed":
                return a.reshape(b, heads, n, c // heads)
            if how == "strided":
                return a.reshape(b, n, c // heads, heads).permute(0, 3, 1, 2)
            return a.reshape(b, n, heads, c // heads).transpose(1, 2)

        scale = q.shape[-1] ** -0.5 if how == "scale" else None
        out = _attention(split(q), split(k), split(v), scale)
        b, h, n, d = out.shape
        if how == "strided":
            return out.permute(0, 2, 3, 1).reshape(b, n, d * h)
        if how in ("mixed", "merge"):
            return out.reshape(b, n, h * d)
        return out.transpose(1, 2).reshape(b, n, h * d)

    return attention


def _heads_cases(g):
    for b, n, m, heads, d in [(2, 4, 3, 2, 3), (1, 5, 5, 8, 4), (2, 3, 7, 1, 6)]:
        c = heads * d
        yield _normal(g, b, n, c), _normal(g, b, m, c), _normal(g, b, m, c), heads


def _map_bytes(pixels, heads, batch, size, factor=8, power=2, with_heads=True):
    return batch * (heads if with_heads else 1) * ((pixels // factor) ** 2) ** power * size


def _merge(how="right"):
    def merged(o1, lse1, o2, lse2):
        if how == "mean":
            return (o1 + o2) / 2
        if how == "linear":
            a, b = lse1, lse2
        else:
            top = torch.maximum(lse1, lse2)
            a, b = (lse1 - top).exp(), (lse2 - top).exp()
        if how == "swapped":
            a, b = b, a
        if how == "sum":
            return a[:, None] * o1 + b[:, None] * o2
        if how == "overflow":
            a, b = lse1.exp(), lse2.exp()
        return (a[:, None] * o1 + b[:, None] * o2) / (a + b)[:, None]

    return merged


def _merge_cases(g):
    for n, e, high in [(3, 2, 0.0), (5, 4, 0.0), (4, 3, 2000.0), (2, 3, -2000.0)]:
        lse1, lse2 = high + 2 * _normal(g, 2, n)
        yield _normal(g, n, e), lse1, _normal(g, n, e), lse2


def _geglu(function, first=False):
    def geglu(x, weight, bias):
        a, b = (x @ weight.T + bias).chunk(2, dim=-1)
        return b * function(a) if first else a * function(b)

    return geglu


def _geglu_cases(g):
    for n, d, inner in [(3, 2, 4), (5, 4, 1), (2, 6, 8)]:
        yield _normal(g, n, d), _normal(g, 2 * inner, d), _normal(g, 2 * inner)


# ---- guidance -----------------------------------------------------------------------------


def _toy_model(x, t, c):
    return (x * c + c**2).sin() + t / 1000


def _cfg(how="right"):
    def eps(model, x, t, cond, negative, scale):
        out_n, out_c = model(x, t, negative), model(x, t, cond)
        if how == "swapped":
            out_n, out_c = out_c, out_n
        if how == "w":
            return (1 + scale) * out_c - scale * out_n
        if how == "minus":
            return scale * out_c - out_n
        if how == "mean":
            return model(x, t, negative + scale * (cond - negative))
        return out_n + scale * (out_c - out_n)

    return eps


def _cfg_cases(g):
    for shape, scale in [((2, 3), 7.5), ((1, 4, 2, 2), 1.0), ((3, 2), 0.0), ((2, 2), 3.0)]:
        x, cond, negative = _normal(g, 3, *shape)
        yield _toy_model, x, 500, cond, negative, scale


def _share(p_u, p_c, s):
    p = p_u ** (1 - s) * p_c**s
    return p / p.sum()


def _share_cases(g):
    for k, s in [(3, 2.0), (5, 7.5), (4, 1.0), (4, 0.0)]:
        p_u, p_c = _normal(g, 2, k).softmax(1)
        yield p_u, p_c, s


def _linear_share(p_u, p_c, s):
    p = (p_u + s * (p_c - p_u)).clamp(min=0)
    return p / p.sum()


EXERCISES = {
    "attention_loops": Exercise(
        _attention,
        _attention_cases,
        {
            "divide the scores by the root of d": lambda q, k, v: _attention(q, k, v, 1.0),
            "a root is missing: √d, not d": lambda q, k, v: _attention(q, k, v, 1 / q.shape[-1]),
            "the weights of a query add up to 1 over the keys": lambda q, k, v: _attention(
                q, k, v, over=0
            ),
            "e to the score is not a weight yet: divide by their sum": lambda q, k, v: _attention(
                q, k, v, norm=False
            ),
            "d is the width of a query, not the number of keys": lambda q, k, v: _attention(
                q, k, v, len(k) ** -0.5
            ),
        },
        level="easy",
        goal="write attention as a loop over queries",
        given=(attention, "in_blocks"),
    ),
    "repaired_query": Exercise(
        lambda w, d, d_used: w * (d_used / d) ** 0.5,
        _repaired_cases,
        {
            "upside down: dividing by too much must be made up for": lambda w, d, u: (
                w * (d / u) ** 0.5
            ),
            "a root is missing": lambda w, d, u: w * u / d,
            "undo the program's root, but keep the one of the training": lambda w, d, u: w * u**0.5,
            "only queries are changed, so the whole factor is theirs": lambda w, d, u: (
                w * (u / d) ** 0.25
            ),
        },
        level="middle",
        goal="see where the scale of attention can hide",
    ),
    "masked_attention": Exercise(
        _masked(),
        _masked_cases,
        {
            "masked after the softmax, the weights no longer add up to 1": _masked("after"),
            "True means that the query may look": _masked("inverted"),
            "where `allowed` is True the score stays; the others are hidden": _masked(
                "inverted, -1e9"
            ),
            "a score of 0 is not a weight of 0": _masked("zero"),
            "the mask is not used": lambda q, k, v, allowed: _attention(q, k, v),
        },
        level="middle",
        goal="forbid keys and keep the weights adding up to 1",
    ),
    "multi_head_attention": Exercise(
        _heads(),
        _heads_cases,
        {
            "a head is a run of neighbouring channels: (h d), not (d h)": _heads("strided"),
            "that cuts across tokens: split the channels, then move the heads forward": (
                _heads("mixed")
            ),
            "move the heads back behind the tokens before merging": _heads("merge"),
            "d is the width of one head, not of all": _heads("scale"),
            "that is one head over all channels": lambda q, k, v, heads: _attention(q, k, v),
        },
        level="middle",
        goal="split channels into heads and join them again",
    ),
    "map_bytes": Exercise(
        _map_bytes,
        lambda g: [(512, 8, 1, 4), (512, 8, 2, 2), (768, 5, 2, 4), (1024, 8, 2, 4), (64, 1, 1, 4)],
        {
            "the U-Net sees latents, 8 times smaller than the picture": lambda *c: _map_bytes(
                *c, factor=1
            ),
            "a map has a number for every pair of positions": lambda *c: _map_bytes(*c, power=1),
            "every head has a map of its own": lambda *c: _map_bytes(*c, with_heads=False),
        },
        level="easy",
        goal="count the memory of attention maps",
    ),
    "merge_attention": Exercise(
        _merge(),
        _merge_cases,
        {
            "the half with the larger scores counts more": _merge("mean"),
            "the weights are sums of exponentials: exp(lse), not lse": _merge("linear"),
            "each half has its own weight: they are swapped": _merge("swapped"),
            "the weights must add up to 1": _merge("sum"),
            "exp(2000) is infinite: subtract the larger lse from both first": _merge("overflow"),
        },
        level="hard",
        goal="merge two blocks of keys without overflow, as fast attention does",
    ),
    "geglu": Exercise(
        _geglu(F.gelu),
        _geglu_cases,
        {
            "the value is the first half, the gate the second": _geglu(F.gelu, first=True),
            "that is GLU: the gate goes through GELU, not a sigmoid": _geglu(torch.sigmoid),
            "SiLU is elsewhere in the U-Net; the gate has GELU": _geglu(F.silu),
            "exact GELU, not its tanh approximation": _geglu(
                lambda x: F.gelu(x, approximate="tanh")
            ),
            "exact GELU; the quick one is CLIP's": _geglu(quick_gelu),
            "the gate goes through GELU": _geglu(lambda x: x),
        },
        level="easy",
        goal="write the gated feed-forward of the transformer",
    ),
    "negative_cfg": Exercise(
        _cfg(),
        _cfg_cases,
        {
            "the two are swapped: start at the negative prompt and go towards the prompt": (
                _cfg("swapped")
            ),
            "that is the paper's w; s is 1 + w": _cfg("w"),
            "the weights of the two must add up to 1": _cfg("minus"),
            "guide what the model says, not the words it is told": _cfg("mean"),
        },
        level="easy",
        goal="guide away from a negative prompt",
    ),
    "w_of_two": Exercise(
        lambda w1, w2: (1 + w1) * (1 + w2) - 1,
        lambda g: [(6.5, 0.0), (1.0, 1.0), (2.0, 0.5), (0.0, 3.0), (-0.5, 1.0)],
        {
            "they do not just add up": lambda w1, w2: w1 + w2,
            "scales multiply, but scales are 1 + w": lambda w1, w2: w1 * w2,
            "that is SD's scale g": lambda w1, w2: (1 + w1) * (1 + w2),
        },
        level="middle",
        goal="see what guiding twice amounts to",
    ),
    "guided_share": Exercise(
        _share,
        _share_cases,
        {
            "that is the paper's w; s is 1 + w": lambda u, c, s: _share(u, c, 1 + s),
            "the two are swapped: s = 1 must give p_c": lambda u, c, s: _share(c, u, s),
            "probabilities add up to 1": lambda u, c, s: u ** (1 - s) * c**s,
            "logarithms are mixed, not probabilities": _linear_share,
            "mix the logarithms: mixed probabilities can be negative": lambda u, c, s: (
                u + s * (c - u)
            ),
        },
        level="middle",
        goal="see what guidance does to probabilities",
    ),
}

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


def _no_exponential(q, k, v):
    scores = q @ k.T / math.sqrt(q.shape[1])
    return scores / scores.sum(1, keepdim=True) @ v


def _attention_with(q, k, v, bias):
    return (q @ k.T / math.sqrt(q.shape[1]) + bias).softmax(1) @ v


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

        scale = {"scale": q.shape[-1] ** -0.5, "undivided": 1.0}.get(how)
        out = _attention(split(q), split(k), split(v), scale)
        b, h, n, d = out.shape
        if how == "strided":
            return out.permute(0, 2, 3, 1).reshape(b, n, d * h)
        if how == "joined":
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
        if how == "no start":
            return scale * (out_c - out_n)
        if how == "towards":
            return out_n - scale * (out_c - out_n)
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


def _share(p_u, p_c, g):
    p = p_u ** (1 - g) * p_c**g
    return p / p.sum()


def _share_cases(g):
    for k, scale in [(3, 2.0), (5, 7.5), (4, 1.0), (4, 0.0)]:
        p_u, p_c = _normal(g, 2, k).softmax(1)
        yield p_u, p_c, scale


def _linear_share(p_u, p_c, g):
    p = (p_u + g * (p_c - p_u)).clamp(min=0)
    return p / p.sum()


EXERCISES = {
    "attention_loops": Exercise(
        _attention,
        _attention_cases,
        {
            "Divide the scores by the root of d.": lambda q, k, v: _attention(q, k, v, 1.0),
            "A root is missing: divide by √d, not by d.": (
                lambda q, k, v: _attention(q, k, v, 1 / q.shape[-1])
            ),
            "The weights of a query add up to 1 over the keys.": (
                lambda q, k, v: _attention(q, k, v, over=0)
            ),
            "The exponential of a score is not a weight yet: divide by the sum over the keys.": (
                lambda q, k, v: _attention(q, k, v, norm=False)
            ),
            "d is the width of a query, not the number of keys.": (
                lambda q, k, v: _attention(q, k, v, len(k) ** -0.5)
            ),
            "Multiply by 1/√d: larger heads need smaller scores.": (
                lambda q, k, v: _attention(q, k, v, q.shape[-1] ** 0.5)
            ),
            "These are the weights divided by their sum, without the exponential.": _no_exponential,
            "The softmax is missing: the scores themselves are not weights.": lambda q, k, v: (
                q @ k.T / math.sqrt(q.shape[1]) @ v
            ),
            "Divide by the sum of the exponentials, not by the number of keys.": lambda q, k, v: (
                _attention(q, k, v, norm=False) / len(k)
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
            "This is upside down: where the program divides by too much, the weights must be "
            "larger.": lambda w, d, u: w * (d / u) ** 0.5,
            "A root is missing: the program divides by √d_used.": lambda w, d, u: w * u / d,
            "The root of the program is undone, but the root of the training must stay.": (
                lambda w, d, u: w * u**0.5
            ),
            "The root of the training is there, but the program's root must be undone.": (
                lambda w, d, u: w / d**0.5
            ),
            "Only the queries are changed, so the whole factor is theirs, not its root.": (
                lambda w, d, u: w * (u / d) ** 0.25
            ),
            "Nothing is changed: the program's scores are wrong by √(d/d_used).": lambda w, d, u: w,
            "This is upside down, and a root is missing.": lambda w, d, u: w * d / u,
        },
        level="middle",
        goal="see where the scale of attention can hide",
    ),
    "masked_attention": Exercise(
        _masked(),
        _masked_cases,
        {
            "The mask comes after the softmax here, so the weights add up to less than 1.": (
                _masked("after")
            ),
            "True means that the query may read the key.": _masked("inverted"),
            "Where `allowed` is True the score stays; where it is False the score is -∞.": (
                _masked("inverted, -1e9")
            ),
            "A score of 0 is not a weight of 0: the score must be -∞.": _masked("zero"),
            "The mask is not used.": lambda q, k, v, allowed: _attention(q, k, v),
            "The scores are not divided by √d.": lambda q, k, v, allowed: (
                (q @ k.T).masked_fill(~allowed, -math.inf).softmax(1) @ v
            ),
            "Adding True and False to the scores adds 1 and 0: add 0 and -∞.": (
                lambda q, k, v, allowed: _attention_with(q, k, v, allowed.double())
            ),
            "The value of a forbidden key must have no weight; setting it to 0 leaves its weight "
            "in the sum.": lambda q, k, v, allowed: _attention(q, k, v * allowed[-1][:, None]),
        },
        level="middle",
        goal="forbid keys and keep the weights adding up to 1",
    ),
    "multi_head_attention": Exercise(
        _heads(),
        _heads_cases,
        {
            "A head is a run of neighbouring channels: split with (h d), not with (d h).": (
                _heads("strided")
            ),
            "This cuts across tokens: split the channels first, then move the heads in front of "
            "the tokens.": _heads("mixed"),
            "Move the heads back behind the tokens before you join the channels.": _heads("merge"),
            "Under the root is the width of one head, not of all heads together.": _heads("scale"),
            "This is one head over all channels.": lambda q, k, v, heads: _attention(q, k, v),
            "The scores are not divided by √d.": _heads("undivided"),
            "Join the channels as they were split: (h d), not (d h).": _heads("joined"),
        },
        level="middle",
        goal="split channels into heads and join them again",
    ),
    "map_bytes": Exercise(
        _map_bytes,
        lambda g: [(512, 8, 1, 4), (512, 8, 2, 2), (768, 5, 2, 4), (1024, 8, 2, 4), (64, 1, 1, 4)],
        {
            "The U-Net works on latents, whose side is 8 times smaller than the picture's.": (
                lambda *c: _map_bytes(*c, factor=1)
            ),
            "A map has a number for every pair of positions.": lambda *c: _map_bytes(*c, power=1),
            "Every head has a map of its own.": lambda *c: _map_bytes(*c, with_heads=False),
            "Every picture of the batch has maps of its own.": lambda p, h, b, n: _map_bytes(
                p, h, 1, n
            ),
            "This counts numbers: multiply by the bytes of a number.": lambda p, h, b, n: (
                _map_bytes(p, h, b, 1)
            ),
            "A map has a number for every pair of positions, and a position is a place of the "
            "latent, not a pixel.": lambda p, h, b, n: b * h * p * p * n,
            "This counts scores and weights both: the question is about the maps of weights.": (
                lambda *c: 2 * _map_bytes(*c)
            ),
            "Cross-attention has 77 keys; in self-attention every position is a key.": (
                lambda p, h, b, n: b * h * (p // 8) ** 2 * 77 * n
            ),
        },
        level="easy",
        goal="count the memory of attention maps",
    ),
    "merge_attention": Exercise(
        _merge(),
        _merge_cases,
        {
            "The block with the larger sum of exponentials counts more.": _merge("mean"),
            "The weights are sums of exponentials: exp(lse), not lse.": _merge("linear"),
            "Each block has its own weight; here they are swapped.": _merge("swapped"),
            "The two weights must add up to 1: divide by their sum.": _merge("sum"),
            "exp(2000) is infinite and exp(-2000) is 0: subtract the larger lse from both "
            "first.": _merge("overflow"),
            "This takes the answer of the larger block alone: the smaller one has a weight too.": (
                lambda o1, l1, o2, l2: torch.where((l1 > l2)[:, None], o1, o2)
            ),
            "This only adds the two answers: each has a weight, and the weights add up to 1.": (
                lambda o1, l1, o2, l2: o1 + o2
            ),
        },
        level="hard",
        goal="merge two blocks of keys without overflow, as fast attention does",
    ),
    "geglu": Exercise(
        _geglu(F.gelu),
        _geglu_cases,
        {
            "The value is the first half, the gate the second.": _geglu(F.gelu, first=True),
            "This is GLU: the gate goes through GELU, not through a sigmoid.": (
                _geglu(torch.sigmoid)
            ),
            "SiLU is elsewhere in the U-Net; here the gate goes through GELU.": _geglu(F.silu),
            "The exact GELU is needed, not its tanh approximation.": _geglu(
                lambda x: F.gelu(x, approximate="tanh")
            ),
            "The exact GELU is needed; the quick one is CLIP's.": _geglu(quick_gelu),
            "The gate goes through GELU before it multiplies the value.": _geglu(lambda x: x),
            "The gate multiplies the value; it is not added.": lambda x, w, b: (
                (x @ w.T + b).chunk(2, -1)[0] + F.gelu((x @ w.T + b).chunk(2, -1)[1])
            ),
            "The bias is missing.": lambda x, w, b: _geglu(F.gelu)(x, w, 0 * b),
            "Only the gate goes through GELU, not the value.": lambda x, w, b: (
                F.gelu((x @ w.T + b).chunk(2, -1)[0]) * F.gelu((x @ w.T + b).chunk(2, -1)[1])
            ),
            "GELU belongs to the gate alone, before the product, not to the product.": (
                lambda x, w, b: F.gelu(_geglu(lambda g: g)(x, w, b))
            ),
            "The gate goes through ReLU here; it must go through GELU.": _geglu(F.relu),
            "Value and gate are two halves, not every other number.": lambda x, w, b: (
                (x @ w.T + b)[:, ::2] * F.gelu((x @ w.T + b)[:, 1::2])
            ),
        },
        level="easy",
        goal="write the gated feed-forward of the transformer",
    ),
    "negative_cfg": Exercise(
        _cfg(),
        _cfg_cases,
        {
            "The two are swapped: start at the negative prompt and go towards the prompt.": (
                _cfg("swapped")
            ),
            "This is the paper's w: g is 1 + w, and the start is the negative prediction.": (
                _cfg("w")
            ),
            "The weights of the two predictions must add up to 1.": _cfg("minus"),
            "Mix what the network predicts, not the prompts.": _cfg("mean"),
            "The start is missing: the scaled difference is added to the negative prediction.": (
                _cfg("no start")
            ),
            "This moves towards the negative prompt.": _cfg("towards"),
        },
        level="easy",
        goal="guide away from a negative prompt",
    ),
    "w_of_two": Exercise(
        lambda w1, w2: (1 + w1) * (1 + w2) - 1,
        lambda g: [(6.5, 0.0), (1.0, 1.0), (2.0, 0.5), (0.0, 3.0), (-0.5, 1.0)],
        {
            "Two values of w do not just add up.": lambda w1, w2: w1 + w2,
            "Scales multiply, but a scale is 1 + w.": lambda w1, w2: w1 * w2,
            "This is SD's scale g: subtract 1.": lambda w1, w2: (1 + w1) * (1 + w2),
            "This adds the scales 1 + w: scales multiply.": lambda w1, w2: w1 + w2 + 1,
            "The second guidance starts at ε_u too: w_1 is multiplied by 1 + w_2, and so is the "
            "first 1.": lambda w1, w2: w1 * (1 + w2),
        },
        level="middle",
        goal="see what guiding twice amounts to",
    ),
    "guided_share": Exercise(
        _share,
        _share_cases,
        {
            "This is the paper's w: g is 1 + w.": lambda u, c, g: _share(u, c, 1 + g),
            "The two are swapped: g = 1 must give p_c.": lambda u, c, g: _share(c, u, g),
            "The probabilities must add up to 1.": lambda u, c, g: u ** (1 - g) * c**g,
            "Mix the logarithms, not the probabilities.": _linear_share,
            "The softmax takes logarithms: mix those, not the probabilities.": lambda u, c, g: (
                u + g * (c - u)
            ).softmax(0),
            "Mix the logarithms: mixed probabilities can be negative.": lambda u, c, g: (
                u + g * (c - u)
            ),
            "These are logarithms: take the exponential, and divide by the sum.": lambda u, c, g: (
                (1 - g) * u.log() + g * c.log()
            ),
            "p_u is missing: its power is 1 - g.": lambda u, c, g: c**g / (c**g).sum(),
            "p_u itself is missing: (p_c/p_u) to the power g is multiplied by p_u.": (
                lambda u, c, g: (c / u) ** g / ((c / u) ** g).sum()
            ),
        },
        level="middle",
        goal="see what guidance does to probabilities",
    ),
}

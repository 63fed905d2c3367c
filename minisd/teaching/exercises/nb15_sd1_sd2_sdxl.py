"""Exercises of notebook 15."""

import torch

from ...models.blocks import timestep_embedding
from ...models.configs import SD1, SD1_INPAINT, SD2, SD2_UNCLIP_H, SDXL, SDXL_REFINER, UPSCALER
from ..checking import Exercise

# ---- keys and shapes ----------------------------------------------------------------------

BLOCK = "middle_block.1.transformer_blocks.0."


def _key_shape(emb=4, gate=2, context=True, transposed=False, conv=None):
    """The shape that a config gives to a key; the arguments are slips."""

    def shape(key, config):
        width, in_, out = config.model_channels, config.in_channels, config.out_channels
        deep = width * config.channel_mult[-1]
        linear = config.linear_projections if conv is None else not conv
        found = {
            "time_embed.0.weight": (emb * width, width),
            "time_embed.2.weight": (emb * width, emb * width),
            "label_emb.0.0.weight": (emb * width, config.vector_dim),
            "input_blocks.0.0.weight": (width, in_, 3, 3),
            "input_blocks.1.0.emb_layers.1.weight": (width * config.channel_mult[0], emb * width),
            "middle_block.1.norm.weight": (deep,),
            "middle_block.1.proj_in.weight": (deep, deep) + (() if linear else (1, 1)),
            BLOCK + "attn2.to_k.weight": (deep, config.context_dim if context else deep),
            BLOCK + "ff.net.0.proj.weight": (4 * gate * deep, deep),
            "out.2.weight": (out, width, 3, 3),
        }[key]
        return (*found[1::-1], *found[2:]) if transposed else found

    return shape


def _key_cases(g):
    keys = ["time_embed.0.weight", "time_embed.2.weight", "input_blocks.0.0.weight"]
    keys += ["input_blocks.1.0.emb_layers.1.weight", "middle_block.1.norm.weight"]
    keys += ["middle_block.1.proj_in.weight", BLOCK + "attn2.to_k.weight", "out.2.weight"]
    keys += [BLOCK + "ff.net.0.proj.weight"]
    for config in (SD1, SD1_INPAINT, SD2, SDXL, SDXL_REFINER, UPSCALER):
        for key in [*keys, "label_emb.0.0.weight"] if config.vector_dim else keys:
            yield key, config


# ---- transformers -------------------------------------------------------------------------


def _count(middle=1, up=1, by="factor", blocks=True):
    """SpatialTransformers and the blocks in them; the arguments are slips."""

    def count(channel_mult, factors, res_blocks, depth):
        spatial, inner = middle, middle * depth[-1]
        for level in range(len(channel_mult)):
            if (2**level if by == "factor" else level) in factors:
                here = res_blocks + res_blocks + up
                spatial, inner = spatial + here, inner + here * depth[level]
        return spatial, inner if blocks else spatial

    return count


def _count_cases(g):
    for c in (SD1, SDXL, SDXL_REFINER, UPSCALER):
        yield c.channel_mult, c.attention_factors, c.res_blocks, c.transformer_depth
    yield (1, 2, 2), (1, 4), 3, (2, 5, 7)


def _tokens(pixels, channel_mult, factors, side=lambda pixels: pixels // 8, square=True):
    sides = [side(pixels) // 2**level for level in range(len(channel_mult))]
    return [s**2 if square else s for level, s in enumerate(sides) if 2**level in factors]


def _tokens_at_sides(pixels, channel_mult, factors):
    sides = [pixels // 8 // 2**level for level in range(len(channel_mult))]
    return [s**2 for s in sides if s in factors] or [0]


def _token_cases(g):
    for pixels, c in [(512, SD1), (1024, SDXL), (768, SD2), (1024, SDXL_REFINER)]:
        yield pixels, c.channel_mult, c.attention_factors
    yield 256, (1, 2, 4), (4, 8, 16)


def _transformer_parameters(bias=False, gate=2, context=True, once=False, norms=True):
    """Parameters of a SpatialTransformer; the arguments are slips."""

    def count(channels, context_dim, depth):
        c, ctx = channels, context_dim if context else channels
        around = 2 * c + 2 * (c * c + c)
        attn1 = 4 * c * c + c + bias * 3 * c
        attn2 = 2 * c * c + 2 * c * ctx + c + bias * 3 * c
        ff = (c * 4 * gate * c + 4 * gate * c) + (4 * c * c + c)
        block = attn1 + attn2 + ff + norms * 6 * c
        return depth * (around + block) if once else around + depth * block

    return count


def _parameter_cases(g):
    yield from [(320, 768, 1), (1280, 2048, 10), (640, 1024, 2), (8, 4, 3)]


# ---- what goes in -------------------------------------------------------------------------


def _inpaint_input(x, paint, masked):
    return torch.cat([x, paint[:, :, ::8, ::8], masked], dim=1)


def _inpaint_cases(g):
    for b, side in [(1, 4), (2, 3)]:
        paint = (torch.rand(b, 1, 8 * side, 8 * side, generator=g) > 0.5).double()
        x, masked = torch.randn(2, b, 4, side, side, dtype=torch.float64, generator=g)
        yield x, paint, masked


def _sines_first(numbers, dim):
    return timestep_embedding(numbers, dim).roll(dim // 2, 1)


def _vector(order=(0, 1, 2, 3, 4, 5), pooled_first=True, embed=timestep_embedding, total=False):
    """SDXL's vector; the arguments are slips."""

    def vector(pooled, original, crop, target):
        numbers = torch.tensor([*original, *crop, *target], dtype=torch.float64)[list(order)]
        embedded = embed(numbers, 256)
        embedded = embedded.sum(0) if total else embedded.flatten()
        parts = [pooled, embedded.expand(len(pooled), -1).to(pooled.dtype)]
        return torch.cat(parts if pooled_first else parts[::-1], dim=1)

    return vector


def _vector_cases(g):
    for b, sizes in [
        (1, ((1024, 768), (0, 16), (896, 1152))),
        (2, ((512, 300), (100, 0), (1024, 1000))),
        (3, ((2000, 1999), (7, 300), (640, 1536))),
    ]:
        yield torch.randn(b, 1280, dtype=torch.float64, generator=g), *sizes


def _vector_dim(extra, width, biases=2, second=True, widen=4):
    emb = widen * width
    return (extra - biases * emb - second * emb * emb) / emb


def _vector_dim_cases(g):
    for vector, width in [(2048, 320), (1536, 320), (2816, 320), (2560, 384), (6, 8)]:
        emb = 4 * width
        yield vector * emb + emb + emb * emb + emb, width


# ---- which family -------------------------------------------------------------------------

NAMES = ["sd1", "sd1-inpaint", "sd2", "sd2-inpaint", "sd2-depth", "unclip-h", "upscaler"]
NAMES += ["sdxl", "sdxl-refiner", "ldm-txt2img"]


def _which_family(place=1, first=True, label_=True):
    """The place in NAMES from three shapes; the arguments are slips."""

    def which(conv, to_k, label):
        channels, context = conv[1] if first else 4, to_k[place]
        vector = label[1] if label_ and label else None
        if context == 768:
            name = "sd1-inpaint" if channels == 9 else "sd1"
        elif context == 2048:
            name = "sdxl"
        elif context == 1280:
            name = "sdxl-refiner" if vector or not label_ else "ldm-txt2img"
        elif channels == 4:
            name = "unclip-h" if vector else "sd2"
        else:
            name = {9: "sd2-inpaint", 5: "sd2-depth"}.get(channels, "upscaler")
        return NAMES.index(name)

    return which


def _family_cases(g):
    ldm = ("ldm-txt2img", 4, 1280, None)
    for name, channels, context, label in [
        ("sd1", 4, 768, None),
        ("sd1-inpaint", 9, 768, None),
        ("sd2", 4, 1024, None),
        ("sd2-inpaint", 9, 1024, None),
        ("sd2-depth", 5, 1024, None),
        ("unclip-h", 4, 1024, (1280, SD2_UNCLIP_H.vector_dim)),
        ("upscaler", 7, 1024, (1000, 1024)),
        ("sdxl", 4, 2048, (1280, SDXL.vector_dim)),
        ("sdxl-refiner", 4, 1280, (1536, SDXL_REFINER.vector_dim)),
        ldm,
    ]:
        width = {"upscaler": 256, "sdxl-refiner": 384}.get(name, 320)
        narrow = 32 * int(torch.randint(1, 8, (), generator=g))  # a small copy of the family
        for w, mult in ((width, 2), (narrow, 4)):
            vector = label and (4 * w if label[0] != 1000 else 1000, label[1])
            yield (w, channels, 3, 3), (mult * w, context), vector


EXERCISES = {
    "key_shape": Exercise(
        _key_shape(),
        _key_cases,
        {
            "the other way round: a weight's first number is what comes out": _key_shape(
                transposed=True
            ),
            "the time embedding is four times as wide as the U-Net": _key_shape(emb=1),
            "GEGLU's projection makes the value and the gate, four times the width each": (
                _key_shape(gate=1)
            ),
            "attn2's keys are made from the text, not from the pixels": _key_shape(context=False),
            "some families project by a 1 x 1 convolution: four numbers": _key_shape(conv=False),
            "some families project by a Linear: two numbers": _key_shape(conv=True),
        },
        level="middle",
        goal="predict the shape behind a checkpoint's key",
    ),
    "count_transformers": Exercise(
        _count(),
        _count_cases,
        {
            "the way up has one block more at each level than the way down": _count(up=0),
            "the middle has one too, whatever the factors say": _count(middle=0),
            "the factors are 1, 2, 4, 8 for levels 0, 1, 2, 3": _count(by="level"),
            "a SpatialTransformer holds as many blocks as its level's depth": _count(blocks=False),
        },
        level="middle",
        goal="count the transformers of a U-Net from its config",
    ),
    "attention_tokens": Exercise(
        _tokens,
        _token_cases,
        {
            "the U-Net sees latents: an eighth of the picture's side": lambda *a: _tokens(
                *a, side=lambda pixels: pixels
            ),
            "each place of the map is a token: the side squared": lambda *a: _tokens(
                *a, square=False
            ),
            "the factors say how much smaller, not which side": _tokens_at_sides,
            "a factor that no level has does nothing: levels have the factors 1, 2, 4, ...": (
                lambda pixels, channel_mult, factors: [(pixels // 8 // f) ** 2 for f in factors]
            ),
            "latents are an eighth of the picture's side, and only levels that exist count": (
                lambda pixels, channel_mult, factors: [(pixels // f) ** 2 for f in factors]
            ),
            "each place is a token: the side squared, and only levels that exist count": (
                lambda pixels, channel_mult, factors: [pixels // 8 // f for f in factors]
            ),
        },
        level="easy",
        goal="count the tokens of each level that attends",
    ),
    "transformer_parameters": Exercise(
        _transformer_parameters(),
        _parameter_cases,
        {
            "queries, keys and values have no bias": _transformer_parameters(bias=True),
            "GEGLU's projection is twice as wide: value and gate": _transformer_parameters(gate=1),
            "attn2's keys and values read the context's width": _transformer_parameters(
                context=False
            ),
            "norm, proj_in and proj_out stand around the blocks, once": _transformer_parameters(
                once=True
            ),
            "each block has three layer norms": _transformer_parameters(norms=False),
        },
        level="hard",
        goal="count the parameters of a SpatialTransformer",
    ),
    "inpaint_input": Exercise(
        _inpaint_input,
        _inpaint_cases,
        {
            "the mask stands in the middle, the masked picture last (the YAML's comment has it "
            "otherwise)": lambda x, paint, masked: torch.cat([x, masked, paint[:, :, ::8, ::8]], 1),
            "1 is where to paint; do not turn it round": lambda x, paint, masked: _inpaint_input(
                x, 1 - paint, masked
            ),
            "nearest, not the mean: the mask stays 0 or 1": lambda x, paint, masked: torch.cat(
                [x, torch.nn.functional.avg_pool2d(paint, 8), masked], 1
            ),
            "the noisy latent comes first": lambda x, paint, masked: torch.cat(
                [masked, paint[:, :, ::8, ::8], x], 1
            ),
        },
        level="easy",
        goal="put an inpainting U-Net's nine channels in order",
    ),
    "sdxl_vector": Exercise(
        _vector(),
        _vector_cases,
        {
            "height before width": _vector((1, 0, 3, 2, 5, 4)),
            "original size, crop, target size, in this order": _vector((0, 1, 4, 5, 2, 3)),
            "the pooled text comes first": _vector(pooled_first=False),
            "LDM's order: cosines, then sines": _vector(embed=_sines_first),
            "the six embeddings stand side by side, they are not added": _vector(total=True),
        },
        tolerance=1e-3,
        level="middle",
        goal="build SDXL's vector of sizes",
    ),
    "vector_dim": Exercise(
        _vector_dim,
        _vector_dim_cases,
        {
            "both Linears have a bias": lambda e, w: _vector_dim(e, w, biases=0),
            "there are two Linears, and two biases": lambda e, w: _vector_dim(e, w, biases=1),
            "the second Linear, from 4 w to 4 w, counts too": lambda e, w: _vector_dim(
                e, w, second=False
            ),
            "the time embedding's width is 4 model_channels": lambda e, w: _vector_dim(
                e, w, widen=1
            ),
        },
        level="easy",
        goal="read the width of a vector condition from a parameter count",
    ),
    "which_family": Exercise(
        _which_family(),
        _family_cases,
        {
            "to_k is (width, context): what comes in is the second number": _which_family(place=0),
            "the first convolution's second number tells the tasks apart": _which_family(
                first=False
            ),
            "label_emb tells the refiner from LDM-1.4B, and unCLIP from SD 2": _which_family(
                label_=False
            ),
        },
        level="middle",
        goal="name a family from three shapes of its checkpoint",
    ),
}

"""Exercises of notebook 15."""

import torch

from ...models.blocks import timestep_embedding
from ...models.configs import SD1, SD1_INPAINT, SD2, SD2_UNCLIP_H, SDXL, SDXL_REFINER, UPSCALER
from ..checking import Exercise

# ---- keys and shapes ----------------------------------------------------------------------

BLOCK = "middle_block.1.transformer_blocks.0."


def _key_shape(
    emb=4,
    gate=2,
    context=True,
    transposed=False,
    conv=None,
    deepest=True,
    kernel=True,
    swapped=False,
    second=4,
):
    """The shape that a config gives to a key; the arguments are slips."""

    def shape(key, config):
        width, in_, out = config.model_channels, config.in_channels, config.out_channels
        in_, out = (out, in_) if swapped else (in_, out)
        deep = width * (config.channel_mult[-1] if deepest else 1)
        linear = config.linear_projections if conv is None else not conv
        square = (3, 3) if kernel else ()
        found = {
            "time_embed.0.weight": (emb * width, width),
            "time_embed.2.weight": (emb * width, min(emb, second) * width),
            "label_emb.0.0.weight": (emb * width, config.vector_dim),
            "input_blocks.0.0.weight": (width, in_, *square),
            "input_blocks.1.0.emb_layers.1.weight": (width * config.channel_mult[0], emb * width),
            "middle_block.1.norm.weight": (deep,),
            "middle_block.1.proj_in.weight": (deep, deep) + (() if linear else (1, 1)),
            BLOCK + "attn2.to_k.weight": (deep, config.context_dim if context else deep),
            BLOCK + "ff.net.0.proj.weight": (int(4 * gate * deep), deep),
            "out.2.weight": (out, width, *square),
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


def _count(middle=1, up=1, by="factor", blocks=True, sides=2, inner=None):
    """SpatialTransformers and the blocks in them; the arguments are slips."""

    def count(channel_mult, factors, res_blocks, depth):
        spatial = middle
        held = middle * (depth[-1] if inner is None else inner)
        for level in range(len(channel_mult)):
            place = level if by == "level" else 2**level
            if by == "all" or place in factors:
                here = res_blocks + (sides - 1) * (res_blocks + up)
                spatial, held = spatial + here, held + here * depth[level]
        return spatial, held if blocks else spatial

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


def _transformer_parameters(
    bias=False,
    gate=2,
    context=True,
    once=False,
    norms=1,
    around=2,
    biases=True,
    out=True,
    projections=2,
    back=True,
    ff_bias=True,
):
    """Parameters of a SpatialTransformer; the arguments are slips."""

    def count(channels, context_dim, depth):
        c, ctx = channels, context_dim if context else channels
        outside = around * c + projections * (c * c + biases * c)
        output = out * (c * c + biases * c)
        attn1 = 3 * c * c + output + bias * 3 * c
        attn2 = c * c + 2 * c * ctx + output + bias * 3 * c
        ff = c * 4 * gate * c + biases * 4 * gate * c
        ff += back * (4 * c * c + biases * c) - (not ff_bias) * 9 * c
        block = attn1 + attn2 + ff + norms * 6 * c
        return depth * (outside + block) if once else outside + depth * block

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


def _unclip_first(conv, to_k, label):
    """As if every label_emb with a context of 1024 were unCLIP's."""
    if to_k[1] == 1024 and label:
        return NAMES.index("unclip-h")
    return _which_family()(conv, to_k, label)


def _instead(name, wrong, both=False):
    """One family taken for another; both: and the other for it."""

    def which(*shapes):
        found = NAMES[_which_family()(*shapes)]
        swap = {name: wrong, wrong: name} if both else {name: wrong}
        return NAMES.index(swap.get(found, found))

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
            "the order is turned: a weight is (out, in, ...)": _key_shape(transposed=True),
            "the time embedding is four times as wide as the U-Net": _key_shape(emb=1),
            "GEGLU's projection makes the value and the gate, each four times the width": (
                _key_shape(gate=1)
            ),
            "GEGLU's projection widens to four times the width, and twice that for the gate": (
                _key_shape(gate=0.5)
            ),
            "attn2's keys are made from the text, so `in` is context_dim": _key_shape(
                context=False
            ),
            "without linear_projections, proj_in is a 1 x 1 convolution: four numbers": _key_shape(
                conv=False
            ),
            "with linear_projections, proj_in is a Linear: two numbers": _key_shape(conv=True),
            "the middle block has the channels of the last level: w times channel_mult[-1]": (
                _key_shape(deepest=False)
            ),
            "a 3 x 3 convolution's weight is (out, in, 3, 3)": _key_shape(kernel=False),
            "in_channels and out_channels can differ: each belongs to one convolution": (
                _key_shape(swapped=True)
            ),
            "time_embed.2 maps 4w to 4w": _key_shape(second=1),
        },
        level="middle",
        goal="predict the shape behind a checkpoint's key",
    ),
    "count_transformers": Exercise(
        _count(),
        _count_cases,
        {
            "the way up has one SpatialTransformer more at each level than the way down": _count(
                up=0
            ),
            "the middle has one too, whatever the factors say": _count(middle=0),
            "the factors are 1, 2, 4, 8 for the levels 0, 1, 2, 3": _count(by="level"),
            "each SpatialTransformer holds as many blocks as its level's depth": _count(
                blocks=False
            ),
            "only the way down is counted; the way up has its own": _count(sides=1),
            "the middle's depth is the last level's, and here its blocks are missing": _count(
                inner=0
            ),
            "the middle has the depth of the last level, and here it has one block": _count(
                inner=1
            ),
            "the middle has the depth of the last level, not of the first": (
                lambda channel_mult, factors, res_blocks, depth: _count(inner=depth[0])(
                    channel_mult, factors, res_blocks, depth
                )
            ),
            "the middle has one, and the way up one more at each level than the way down": _count(
                middle=0, up=0
            ),
            "the answer has the SpatialTransformers first and the blocks second": lambda *a: (
                _count()(*a)[::-1]
            ),
            "all levels are counted; only those whose factor is in `factors` attend": _count(
                by="all"
            ),
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
            "each place of the map is a token, so the side is squared": lambda *a: _tokens(
                *a, square=False
            ),
            "the factors say how many times smaller the map is; they are no sides": (
                _tokens_at_sides
            ),
            "a factor that no level has does nothing: levels have the factors 1, 2, 4, ...": (
                lambda pixels, channel_mult, factors: [(pixels // 8 // f) ** 2 for f in factors]
            ),
            "latents are an eighth of the picture's side, and only levels that exist count": (
                lambda pixels, channel_mult, factors: [(pixels // f) ** 2 for f in factors]
            ),
            "each place is a token, so the side is squared, and only levels that exist count": (
                lambda pixels, channel_mult, factors: [pixels // 8 // f for f in factors]
            ),
            "the largest map comes first": lambda *a: _tokens(*a)[::-1],
            "this has all levels; only those whose factor is in `factors` attend": (
                lambda pixels, channel_mult, factors: _tokens(
                    pixels, channel_mult, [2**i for i in range(len(channel_mult))]
                )
            ),
            "return a list with one number for each level that attends, not their sum": (
                lambda *a: sum(_tokens(*a))
            ),
            "the largest map comes first, and a factor that no level has does nothing": (
                lambda pixels, channel_mult, factors: [
                    (pixels // 8 // f) ** 2 for f in sorted(factors)
                ]
            ),
            "these are the entries of an attention map; return the number of tokens": lambda *a: [
                n * n for n in _tokens(*a)
            ],
            "the middle is not counted": lambda pixels, channel_mult, factors: [
                *_tokens(pixels, channel_mult, factors),
                (pixels // 8 // 2 ** (len(channel_mult) - 1)) ** 2,
            ],
        },
        level="easy",
        goal="count the tokens of each level that attends",
    ),
    "transformer_parameters": Exercise(
        _transformer_parameters(),
        _parameter_cases,
        {
            "queries, keys and values have no bias": _transformer_parameters(bias=True),
            "GEGLU's projection makes value and gate, so it is twice as wide": (
                _transformer_parameters(gate=1)
            ),
            "attn2's keys and values read the context's width": _transformer_parameters(
                context=False
            ),
            "norm, proj_in and proj_out stand around the blocks, once": _transformer_parameters(
                once=True
            ),
            "the three layer norms of each block are missing": _transformer_parameters(norms=False),
            "each block has three layer norms, one before each of its parts, not two": (
                _transformer_parameters(norms=2 / 3)
            ),
            "a norm has a scale and a shift: two numbers for each channel": (
                _transformer_parameters(norms=0.5, around=1)
            ),
            "the group norm around the blocks is missing": _transformer_parameters(around=0),
            "all biases are missing": _transformer_parameters(biases=False),
            "the output projections of the two attentions are missing": _transformer_parameters(
                out=False
            ),
            "proj_in and proj_out are missing": _transformer_parameters(projections=0),
            "there are two projections around the blocks: proj_in and proj_out": (
                _transformer_parameters(projections=1)
            ),
            "the feed-forward's second Linear, back to the width, is missing": (
                _transformer_parameters(back=False)
            ),
            "both Linears of the feed-forward have a bias": _transformer_parameters(ff_bias=False),
            "depth is missing: the blocks are counted once": lambda c, context, depth: (
                _transformer_parameters()(c, context, 1)
            ),
        },
        level="hard",
        goal="count the parameters of a SpatialTransformer",
    ),
    "inpaint_input": Exercise(
        _inpaint_input,
        _inpaint_cases,
        {
            "the mask is in the middle, the masked picture last (the YAML's comment says "
            "otherwise)": lambda x, paint, masked: torch.cat([x, masked, paint[:, :, ::8, ::8]], 1),
            "1 is where to paint; do not turn the mask round": lambda x, paint, masked: (
                _inpaint_input(x, 1 - paint, masked)
            ),
            "take every eighth pixel, not the mean: the mask stays 0 or 1": (
                lambda x, paint, masked: torch.cat(
                    [x, torch.nn.functional.avg_pool2d(paint, 8), masked], 1
                )
            ),
            "take every eighth pixel, not the largest of the 64": lambda x, paint, masked: (
                torch.cat([x, torch.nn.functional.max_pool2d(paint, 8), masked], 1)
            ),
            "take the pixels 0, 8, 16, ..., not those from the middle": lambda x, paint, masked: (
                torch.cat([x, paint[:, :, 4::8, 4::8], masked], 1)
            ),
            "the noisy latent comes first": lambda x, paint, masked: torch.cat(
                [masked, paint[:, :, ::8, ::8], x], 1
            ),
            "the noisy latent comes first, and then the mask": lambda x, paint, masked: torch.cat(
                [paint[:, :, ::8, ::8], x, masked], 1
            ),
            "the latent of the masked picture goes in as it is; it is masked already": (
                lambda x, paint, masked: _inpaint_input(
                    x, paint, masked * (1 - paint[:, :, ::8, ::8])
                )
            ),
            "the noisy latent goes in as it is; it is not masked": lambda x, paint, masked: (
                _inpaint_input(x * (1 - paint[:, :, ::8, ::8]), paint, masked)
            ),
            "the mask stays 0 and 1; it is not scaled to -1 and 1": lambda x, paint, masked: (
                _inpaint_input(x, 2 * paint - 1, masked)
            ),
            "the latent of the masked picture is missing": lambda x, paint, masked: torch.cat(
                [x, paint[:, :, ::8, ::8]], 1
            ),
        },
        level="easy",
        goal="put an inpainting U-Net's nine channels in order",
    ),
    "sdxl_vector": Exercise(
        _vector(),
        _vector_cases,
        {
            "the height comes before the width, and the top before the left": _vector(
                (1, 0, 3, 2, 5, 4)
            ),
            "the order is original size, crop, target size": _vector((0, 1, 4, 5, 2, 3)),
            "the order is original size, crop, target size; here the crop is first": _vector(
                (2, 3, 0, 1, 4, 5)
            ),
            "the order is original size first and target size last": _vector((4, 5, 2, 3, 0, 1)),
            "the pooled text comes first": _vector(pooled_first=False),
            "each embedding has the cosines first, then the sines": _vector(embed=_sines_first),
            "the six embeddings stand side by side, they are not added": _vector(total=True),
            "the pooled text is missing": lambda pooled, *sizes: _vector()(pooled, *sizes)[
                :, pooled.shape[1] :
            ],
            "the lengths are in pixels; do not divide by 8": _vector(
                embed=lambda numbers, dim: timestep_embedding(numbers / 8, dim)
            ),
            "the lengths are embedded in pixels, as they are; do not divide by 1024": _vector(
                embed=lambda numbers, dim: timestep_embedding(numbers / 1024, dim)
            ),
            "the crop is (top, left), in this order, too": _vector((0, 1, 3, 2, 4, 5)),
            "the sizes are (height, width), in this order": _vector((1, 0, 2, 3, 5, 4)),
            "the numbers must be embedded: the vector has 1280 + 6 · 256 numbers": (
                lambda pooled, *sizes: torch.cat(
                    [pooled, torch.tensor(sizes).flatten().to(pooled).expand(len(pooled), -1)], 1
                )
            ),
        },
        tolerance=1e-3,
        level="middle",
        goal="build SDXL's vector of sizes",
    ),
    "which_family": Exercise(
        _which_family(),
        _family_cases,
        {
            "to_k is (width, context): the context is the second number": _which_family(place=0),
            "the first convolution's second number tells the tasks apart": _which_family(
                first=False
            ),
            "label_emb tells the refiner from LDM-1.4B, and unCLIP from SD 2": _which_family(
                label_=False
            ),
            "the upscaler has a label_emb too; its 7 channels tell it from unCLIP": _unclip_first,
            "a context of 1280 without label_emb is LDM-1.4B": _instead(
                "ldm-txt2img", "sdxl-refiner"
            ),
            "a context of 1280 with label_emb is SDXL's refiner": _instead(
                "sdxl-refiner", "ldm-txt2img"
            ),
            "the refiner has a context of 1280 and label_emb; SDXL's context is 2048": _instead(
                "sdxl-refiner", "sdxl"
            ),
            "label_emb with a context of 1024 and 4 channels is unCLIP": _instead(
                "unclip-h", "sd2"
            ),
            "places in NAMES are counted from 0": lambda *shapes: _which_family()(*shapes) + 1,
            "9 channels with a context of 1024 are SD 2's inpainting": _instead(
                "sd2-inpaint", "sd1-inpaint"
            ),
            "depth has 5 channels and the upscaler 7": _instead("sd2-depth", "upscaler", both=True),
        },
        level="middle",
        goal="name a family from three shapes of its checkpoint",
    ),
}

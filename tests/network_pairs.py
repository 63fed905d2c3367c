"""Our networks beside diffusers' and transformers', of the same settings and random weights.

Official topology, small width. Weights, norms and biases are all drawn, so that no branch is 0.
`pair(name)` makes two networks; `difference` and `gradient_difference` compare what they give.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from dataclasses import replace

import diffusers_keys as keys
import torch
from diffusers.pipelines.latent_diffusion import pipeline_latent_diffusion as latent_diffusion
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from minisd.models import configs as c
from minisd.models.autoencoder import AutoencoderKL
from minisd.models.bert import BERTText
from minisd.models.blocks import timestep_embedding
from minisd.models.clip import CLIPText, OpenCLIPText
from minisd.models.unet import UNet
from minisd.models.vq import VQModel


@dataclasses.dataclass
class Pair:
    """Two networks of one function. run(module, *inputs) -> tensors; weights: names to theirs."""

    ours: nn.Module
    theirs: nn.Module
    weights: Callable[[dict], dict]
    run: Callable
    run_theirs: Callable
    inputs: tuple[Tensor, ...]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomise(module, quiet=None):
    """Every parameter drawn: matrices that keep a vector's size, norms near 1, biases near 0.

    quiet, a pattern of names, shrinks matrices and biases by 20, so that what comes to the norms
    behind them varies little and their eps shows.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            size = 0.05 if quiet and re.search(quiet, name) else 1
            if p.ndim > 1:
                p.copy_(noise * size * p[0].numel() ** -0.5)
            elif name.endswith("weight"):
                p.copy_(1 + 0.1 * noise)
            else:
                p.copy_(0.1 * size * noise)


# ---- the pairs ----------------------------------------------------------------------------


def narrow(config):
    changes = {"model_channels": 32}
    changes |= {"context_dim": 24} if config.context_dim else {}
    changes |= {"head_channels": 16} if config.head_channels else {}
    changes |= {"vector_dim": 40} if config.vector_dim else {}
    return replace(config, **changes)


def unet_pair(config, size=(8, 16), tokens=5, text_time=False):
    config = narrow(config)
    index = torch.tensor([7, 981])
    ids = torch.tensor([[64, 48, 0, 3, 64, 64], [1024, 512, 5, 0, 1024, 1024]])
    x, context = draw(2, config.in_channels, *size), draw(2, tokens, 24, seed=2)
    inputs = (x,) if config.context_dim is None else (x, context)
    if config.vector_dim:
        inputs += (draw(2, 16 if text_time else 40, seed=3),)
    if config.classes:
        inputs += (torch.tensor([3, 999]),)

    def run(module, x, context=None, y=None):
        if text_time:  # SDXL's vector: the pooled text, then six numbers, four sinusoids of each
            numbers = timestep_embedding(ids.flatten(), 4).reshape(2, -1)
            y = torch.cat([y, numbers.to(y.dtype)], dim=1)
        return (module(x, index, context, y),)

    def run_theirs(module, x, context=None, y=None):
        if context is None:
            return (module(x, index).sample,)
        if text_time:
            extra = {"added_cond_kwargs": {"text_embeds": y, "time_ids": ids}}
        else:
            extra = {"class_labels": y}
        return (module(x, index, context, **extra).sample,)

    vector = "add_embedding" if text_time else "class_embedding"
    rename = functools.partial(keys.unet_weights, config=config, vector=vector)
    theirs = keys.unet(config, text_time=4 if text_time else None)
    return Pair(UNet(config), theirs, rename, run, run_theirs, inputs)


def kl_pair(config):
    config = replace(config, channels=32)
    x, z = draw(2, 3, 16 * config.factor // 4, 6 * config.factor), draw(2, 4, 3, 5, seed=2)

    def run(module, x, z):
        return *module.encode(x), module.decode(z)

    def run_theirs(module, x, z):
        q = module.encode(x).latent_dist
        return q.mean, q.logvar, module.decode(z).sample

    rename = functools.partial(keys.autoencoder_weights, config=config)
    return Pair(AutoencoderKL(config), keys.autoencoder(config), rename, run, run_theirs, (x, z))


def vq_pair(config, legacy):
    config = replace(config, channels=32, codes=32)
    x, z = draw(2, 3, 4 * config.factor, 6 * config.factor), draw(2, config.embed_dim, 3, 5, seed=2)
    ours, theirs = VQModel(config), keys.autoencoder(config)
    ours.quantize.legacy = theirs.quantize.legacy = legacy

    def run(module, x, z):
        codes, loss, indices = module.quantize(z)
        by_index = module.decode_indices(indices)
        return module.encode(x), module.decode(z), by_index, codes, loss

    def run_theirs(module, x, z):
        codes, loss, (_, _, indices) = module.quantize(z)
        shape = (2, 3, 5, config.embed_dim)
        by_index = module.quantize.get_codebook_entry(indices, shape)
        by_index = module.decode(by_index, force_not_quantize=True).sample
        return module.encode(x).latents, module.decode(z).sample, by_index, codes, loss

    rename = functools.partial(keys.autoencoder_weights, config=config)
    return Pair(ours, theirs, rename, run, run_theirs, (x, z))


def tokens(config, pad, length=77):
    """Two prompts of different length; the end token has the largest number."""
    numbers = torch.randint(1, config.vocabulary - 2, (2, length), generator=torch.Generator())
    for row, end in zip(numbers, (length - 1, 6), strict=True):
        row[end], row[end + 1 :] = config.vocabulary - 1, pad
    return numbers


def clip_settings(config):
    return CLIPTextConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=4 * config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        max_position_embeddings=config.length,
        projection_dim=config.projection or 16,
        hidden_act=config.activation,
        bos_token_id=config.vocabulary - 2,
        eos_token_id=config.vocabulary - 1,
    )


def clip_pair(config, length=77):
    config = replace(config, width=32, heads=4, vocabulary=60)
    numbers = tokens(config, pad=config.vocabulary - 1, length=length)

    def run_theirs(module):
        out = module(numbers, output_hidden_states=True)
        context = out.last_hidden_state if config.norm else out.hidden_states[config.layer]
        return context, out.pooler_output

    def rename(ours):
        return {key.removeprefix("text_model."): value for key, value in ours.items()}

    theirs = CLIPTextModel(clip_settings(config))
    return Pair(CLIPText(config), theirs, rename, lambda m: m(numbers), run_theirs, ())


def openclip_pair(config):
    config = replace(config, width=32, heads=4, vocabulary=60, projection=24)
    numbers = tokens(config, pad=0)

    def run_theirs(module):
        out = module(numbers, output_hidden_states=True)
        context = out.hidden_states[-2]
        context = module.text_model.final_layer_norm(context) if config.norm else context
        return context, out.text_embeds

    theirs = CLIPTextModelWithProjection(clip_settings(config))
    rename = keys.openclip_weights
    return Pair(OpenCLIPText(config), theirs, rename, lambda m: m(numbers), run_theirs, ())


def bert_pair(config):
    config = replace(config, width=32, vocabulary=60)
    numbers = tokens(config, pad=0)
    settings = latent_diffusion.LDMBertConfig(
        vocab_size=60,
        max_position_embeddings=77,
        encoder_layers=config.layers,
        encoder_ffn_dim=128,
        encoder_attention_heads=config.heads,
        head_dim=64,
        d_model=32,
    )
    theirs = latent_diffusion.LDMBertModel(settings)

    def run_theirs(module):
        return (module.model(numbers, return_dict=True).last_hidden_state,)

    run = lambda m: (m(numbers).context,)  # noqa: E731
    return Pair(BERTText(config), theirs, keys.bert_weights, run, run_theirs, ())


PAIRS = {
    "sd1": lambda: unet_pair(c.SD1, (16, 8), tokens=77),
    "sd1 inpainting": lambda: unet_pair(c.SD1_INPAINT),
    "sd2": lambda: unet_pair(c.SD2),
    "sd2 depth": lambda: unet_pair(c.SD2_DEPTH, (8, 8), tokens=1),
    "sd2 unclip": lambda: unet_pair(c.SD2_UNCLIP_H),
    "upscaler": lambda: unet_pair(c.UPSCALER),
    "sdxl": lambda: unet_pair(c.SDXL, (8, 12), text_time=True),
    "refiner": lambda: unet_pair(c.SDXL_REFINER),
    "ldm class-conditional": lambda: unet_pair(c.LDM_CIN256, tokens=1),
    "ldm text, vq f8": lambda: unet_pair(c.LDM_CIN_VQ_F8, (12, 8)),
    "ldm unconditional": lambda: unet_pair(c.LDM_FFHQ256),
    "ldm inpainting": lambda: unet_pair(c.LDM_INPAINTING),
    "ldm superresolution": lambda: unet_pair(c.LDM_SUPERRESOLUTION),
    "kl f8": lambda: kl_pair(c.KL_F8),
    "kl f4": lambda: kl_pair(c.KL_F4),
    "vq f4": lambda: vq_pair(c.VQ_F4, legacy=False),
    "vq f8": lambda: vq_pair(c.VQ_F8, legacy=True),
    "vq f16": lambda: vq_pair(c.VQ_F16, legacy=False),
    "clip": lambda: clip_pair(c.CLIP_L),
    "clip, short": lambda: clip_pair(c.CLIP_L, length=9),
    "clip of sdxl": lambda: clip_pair(c.CLIP_L_SDXL),
    "openclip h": lambda: openclip_pair(c.OPENCLIP_H),
    "openclip bigg": lambda: openclip_pair(c.OPENCLIP_BIGG),
    "bert": lambda: bert_pair(c.BERT_LDM),
}


def pair(name, quiet=None):
    made = PAIRS[name]()
    randomise(made.ours, quiet)
    made.theirs.load_state_dict(made.weights(made.ours.state_dict()), strict=True)
    made.theirs.eval()
    return made


# ---- the comparison -----------------------------------------------------------------------


def difference(ours, theirs):
    """max |a - b| as a fraction of the largest |b|, of two tensors or the worst of several."""
    if isinstance(theirs, Tensor):
        ours, theirs = (ours,), (theirs,)
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    return max(
        ((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs, strict=True)
    )


def with_gradients(module, run, inputs):
    """The outputs, and the gradients of a random projection: by number of input, by name."""
    inputs = [a.clone().requires_grad_() if a.is_floating_point() else a for a in inputs]
    variables = {str(i): a for i, a in enumerate(inputs) if a.requires_grad}
    variables |= dict(module.named_parameters())
    out = run(module, *inputs)
    target = sum((a * draw(*a.shape, seed=i)).sum() for i, a in enumerate(out, start=9))
    gradients = torch.autograd.grad(target, list(variables.values()), materialize_grads=True)
    return [a.detach() for a in out], dict(zip(variables, gradients, strict=True))


def gradient_difference(ours, theirs):
    """The worst tensor's difference. One that vanishes up to rounding, as a bias before a norm has,
    is measured against 1% of the largest gradient of all."""
    assert ours.keys() == theirs.keys()
    floor = max(g.abs().max() for g in theirs.values()) / 100
    return max(
        ((ours[key] - g).abs().max() / max(g.abs().max(), floor)).item()
        for key, g in theirs.items()
    )

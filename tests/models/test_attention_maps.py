"""Attention: the formula and the fused kernel, what is held in memory, and maps by word."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from network_pairs import difference, draw, randomise
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minisd.models import configs as c
from minisd.models.attention_maps import AttentionMaps, attention_map, capture
from minisd.models.autoencoder import Attention, AutoencoderKL
from minisd.models.blocks import AttentionBlock, CrossAttention, SpatialTransformer, attention
from minisd.models.unet import UNet

SMALL = replace(c.SD1, model_channels=32, context_dim=24)


def network(config=SMALL):
    unet = UNet(config)
    randomise(unet)
    return unet


UNET = network()
INPUTS = (draw(2, 4, 16, 24), torch.tensor([3, 700]), draw(2, 7, 24, seed=2))


# ---- the formula --------------------------------------------------------------------------


def by_loops(q, k, v):
    """softmax(Q Kᵀ / √d) V one query, one key at a time."""
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for i in range(q.shape[0]):
        scores = torch.stack([sum(q[i] * k[j]) / q.shape[1] ** 0.5 for j in range(k.shape[0])])
        weights = scores.exp() / scores.exp().sum()
        out[i] = sum(weights[j] * v[j] for j in range(k.shape[0]))
    return out


def test_attention_is_its_formula():
    q, k, v = draw(5, 4).double(), draw(3, 4, seed=1).double(), draw(3, 6, seed=2).double()
    assert (attention(q, k, v) - by_loops(q, k, v)).abs().max() < 1e-14


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_the_fused_kernel_computes_the_formula_wherever_it_is_used(dtype, near, monkeypatch):
    """Every call of it, in a U-Net, an LDM's AttentionBlock and a first stage."""
    fused, seen = F.scaled_dot_product_attention, []

    def compared(q, k, v):
        out = fused(q, k, v)
        seen.append(((out - attention(q, k, v)).abs().max() / v.abs().max()).item())
        return out

    monkeypatch.setattr(F, "scaled_dot_product_attention", compared)
    plain, stage = AttentionBlock(64, 4), Attention(32)
    for module in (plain, stage):
        randomise(module)
    with torch.no_grad():
        unet = network().to(dtype)
        unet(INPUTS[0].to(dtype), INPUTS[1], INPUTS[2].to(dtype))
        plain.to(dtype)(draw(2, 64, 8, 6).to(dtype))
        stage.to(dtype)(draw(2, 32, 8, 6).to(dtype))
    assert len(seen) == 2 * 16 + 2 and max(seen) < near


# ---- memory -------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The most elements that any tensor had which an operation made while this was open."""

    elements = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


ONE_MAP = 4096 * 4096  # of one head; a step's 8 would be 512 MiB in float32


def test_a_step_on_64_by_64_latents_holds_no_map():
    with torch.no_grad(), Largest() as largest:
        UNET(draw(1, 4, 64, 64), torch.tensor([500]), draw(1, 77, 24))
    assert 4096 * 256 <= largest.elements < ONE_MAP / 8


def test_a_decode_to_512_by_512_holds_no_map():
    autoencoder = AutoencoderKL(replace(c.KL_F8, channels=32, channel_mult=(1, 1, 2, 4)))
    with torch.no_grad(), Largest() as largest:
        autoencoder.decode(draw(1, 4, 64, 64))
    assert 32 * 512 * 512 <= largest.elements < ONE_MAP


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    "layer", [Attention(32), AttentionBlock(32, 8)], ids=["first stage", "without prompt"]
)
def test_attention_among_4096_pixels_holds_no_map(layer, train):
    """Nor where a gradient will be asked for."""
    with torch.set_grad_enabled(train), Largest() as largest:
        layer(draw(1, 32, 64, 64))
    assert 32 * 4096 <= largest.elements < ONE_MAP / 8


def test_a_map_that_is_held_is_seen(monkeypatch):
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    with torch.no_grad(), Largest() as largest:
        UNET(draw(1, 4, 32, 32), torch.tensor([500]), draw(1, 77, 24))
    assert largest.elements == 8 * 1024 * 1024


# ---- maps ---------------------------------------------------------------------------------


def test_maps_are_the_formula_and_rows_sum_to_one():
    """What attn2 gives is its map times the values, before heads are averaged."""
    with torch.no_grad(), capture(UNET) as maps:
        UNET(*INPUTS)
    assert len(maps.by_layer) == 16
    for path, weights in maps.by_layer.items():
        assert path.endswith("transformer_blocks.0.attn2") and weights.device.type == "cpu"
        assert (weights.sum(-1) - 1).abs().max() < 1e-5 and weights.min() >= 0
    layer = CrossAttention(6, 5, heads=3, head_dim=4)
    x, context = draw(2, 8, 6).double(), draw(2, 7, 5, seed=1).double()
    layer.double()
    with torch.no_grad():
        weights = attention_map(layer, x, context)
        by_hand = torch.zeros(2, 8, 7, dtype=torch.float64)
        for head in range(3):
            rows = slice(4 * head, 4 * head + 4)
            q, k = x @ layer.to_q.weight[rows].T, context @ layer.to_k.weight[rows].T
            for b in range(2):
                for i in range(8):
                    scores = torch.stack([q[b, i] @ k[b, j] / 2 for j in range(7)])
                    by_hand[b, i] += scores.exp() / scores.exp().sum() / 3
    assert (weights - by_hand).abs().max() < 1e-14


def test_captured_maps_are_those_of_the_layers_inputs():
    """One head: the layer's own output is to_out(map @ values)."""
    unet = network(replace(SMALL, heads=1))
    outputs = {}
    for path, module in unet.named_modules():
        if path.endswith("attn2"):
            module.register_forward_hook(lambda m, i, out, path=path: outputs.update({path: out}))
    with torch.no_grad(), capture(unet) as maps:
        unet(*INPUTS)
        for path, weights in maps.by_layer.items():
            layer = unet.get_submodule(path)
            rebuilt = layer.to_out(weights @ layer.to_v(INPUTS[2]))
            assert (rebuilt - outputs[path]).abs().max() < 1e-5


def test_maps_are_pictures_of_the_right_size():
    """A latent of 16 x 24: a map's pixel (i, j) is row 24 i + j of the layer."""
    with torch.no_grad(), capture(UNET) as maps:
        UNET(*INPUTS)
    assert maps.resolutions() == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert [maps.at(size).shape for size in maps.resolutions()] == [
        (2, 7, 16, 24),
        (2, 7, 8, 12),
        (2, 7, 4, 6),
        (2, 7, 2, 3),
    ]
    middle = maps.by_layer["middle_block.1.transformer_blocks.0.attn2"]
    assert torch.equal(maps.at((2, 3))[1, 4, 1, 2], middle[1, 5, 4])
    large = [w for w in maps.by_layer.values() if w.shape[1] == 16 * 24]
    assert len(large) == 5
    mean = sum(w[0, 24 * 3 + 11, 2] for w in large) / 5
    assert (maps.at((16, 24))[0, 2, 3, 11] - mean).abs() < 1e-6


def test_a_word_is_the_sum_of_its_tokens():
    with torch.no_grad(), capture(UNET) as maps:
        UNET(*INPUTS)
    both = maps.at((8, 12))[:, 2] + maps.at((8, 12))[:, 4]
    assert (maps.word([2, 4], (8, 12)) - both).abs().max() < 1e-6
    for wrong in ([], [7], [-1]):
        with pytest.raises(ValueError, match=r"positions must be some of 0\.\.6"):
            maps.word(wrong, (8, 12))


def test_each_pixel_finds_the_token_made_of_it():
    """Tokens that are the pixels themselves, row by row: token 6 i + j lights pixel (i, j) only."""
    transformer = SpatialTransformer(32, 1, 32, 1, 32)
    block, eye = transformer.transformer_blocks[0], torch.eye(32)
    x = draw(1, 32, 4, 6)
    with torch.no_grad(), capture(nn.ModuleList([transformer])) as maps:
        block.attn2.to_q.weight.copy_(30 * eye)
        block.attn2.to_k.weight.copy_(eye)
        block.attn1.to_out[0].weight.zero_()
        block.attn1.to_out[0].bias.zero_()
        transformer.proj_in.weight.copy_(eye[..., None, None])
        transformer.proj_in.bias.zero_()
        pixels = transformer.norm(x)[0]
        transformer(
            x, block.norm2(torch.stack([pixels[:, i // 6, i % 6] for i in range(24)]))[None]
        )
    found = maps.at((4, 6))[0].flatten(1)
    assert torch.equal(found.argmax(1), torch.arange(24)) and found.diagonal().min() > 0.99


def test_steps_are_averaged():
    with torch.no_grad(), capture(UNET) as both:
        UNET(*INPUTS)
        UNET(INPUTS[0] * 2, *INPUTS[1:])
    single = []
    for scale in (1, 2):
        with torch.no_grad(), capture(UNET) as maps:
            UNET(INPUTS[0] * scale, *INPUTS[1:])
        single.append(maps.at((8, 12)))
    assert (single[0] - single[1]).abs().max() > 1e-3
    assert (both.at((8, 12)) - (single[0] + single[1]) / 2).abs().max() < 1e-6


def test_nothing_of_the_network_changes():
    """Outputs and gradients to rounding, and no hook stays, not even after an exception."""

    def step():
        x = INPUTS[0].clone().requires_grad_()
        out = UNET(x, *INPUTS[1:])
        return out.detach(), *torch.autograd.grad(out.square().sum(), x)

    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in UNET.modules())

    before = step()
    with capture(UNET) as maps:
        during = step()
        assert hooks() == 16 + 32 and not maps.at((8, 12)).requires_grad
    assert hooks() == 0
    assert difference(during, before) < 1e-5 and difference(step(), before) < 1e-5
    with pytest.raises(ValueError, match="x must be"), capture(UNET):
        UNET(INPUTS[0][:, :3], *INPUTS[1:])
    assert hooks() == 0


def test_the_upscaler_looks_at_the_prompt_twice():
    """Where self-attention is off, attn1 is given the context as well."""
    config = replace(c.UPSCALER, model_channels=32, context_dim=24)
    unet = network(config)
    with torch.no_grad(), capture(unet) as maps:
        unet(draw(1, 7, 8, 16), torch.tensor([5]), draw(1, 4, 24), torch.tensor([20]))
    names = [path.rpartition(".")[2] for path in maps.by_layer]
    assert names.count("attn2") == 16 and names.count("attn1") == 10


def test_maps_of_a_bfloat16_network_still_sum_to_one():
    unet = network().bfloat16()
    with torch.no_grad(), capture(unet) as maps:
        unet(INPUTS[0].bfloat16(), INPUTS[1], INPUTS[2].bfloat16())
    weights = maps.at((8, 12))
    assert weights.dtype == torch.float32 and (weights.sum(1) - 1).abs().max() < 1e-5


def test_what_cannot_be_shown_is_said():
    with pytest.raises(ValueError, match=r"no attention map was captured.*with a context"):
        AttentionMaps().at((8, 8))
    with torch.no_grad(), capture(UNET) as maps:
        UNET(*INPUTS)
        with pytest.raises(
            ValueError, match=r"different shapes.*input_blocks\.1\.1.*\(2, 384, 7\)"
        ):
            UNET(INPUTS[0][..., :16], *INPUTS[1:])
        with pytest.raises(ValueError, match=r"\(16, 24\), now \(2, 384, 7\) on \(24, 16\)"):
            UNET(INPUTS[0].mT, *INPUTS[1:])
    with pytest.raises(ValueError, match=r"no layer has maps of \(5, 5\), only of \[\(16, 24\)"):
        maps.at((5, 5))

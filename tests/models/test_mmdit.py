"""SD 3's MMDiT: its size, and its numbers beside those of diffusers on the same random weights."""

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch import nn

from minisd.models.mmdit import SD3_MEDIUM, JointBlock, MMDiT, MMDiTConfig, grid_positions

PARAMETERS = 2_028_328_000  # of SD 3 medium, as diffusers counts them
NARROW = MMDiTConfig(depth=3, width=64, heads=4, context_dim=20, vector_dim=12, positions=12)
THEIRS = {  # the beginning of our name: theirs; q, k and v are one layer here and in the checkpoint
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "context_embedder": "context_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
OF_BLOCK = {
    "x_block.adaLN_modulation.1": "norm1.linear",
    "context_block.adaLN_modulation.1": "norm1_context.linear",
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn.proj": "attn.to_out.0",
    "context_block.attn.proj": "attn.to_add_out",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
}


def diffusers_model(config):
    return SD3Transformer2DModel(
        sample_size=config.trained_on * config.patch,
        patch_size=config.patch,
        in_channels=config.channels,
        out_channels=config.channels,
        num_layers=config.depth,
        attention_head_dim=config.width // config.heads,
        num_attention_heads=config.heads,
        joint_attention_dim=config.context_dim,
        caption_projection_dim=config.width,
        pooled_projection_dim=config.vector_dim,
        pos_embed_max_size=config.positions,
    )


def count(network):
    return sum(weight.numel() for weight in network.parameters())


def ours_from(theirs, depth):
    """Their state dict under our names. Their last norms have scale before shift."""
    names = dict(THEIRS)
    for i in range(depth):
        names |= {
            f"joint_blocks.{i}.{ours}": [
                f"transformer_blocks.{i}.{name}"
                for name in ([other] if isinstance(other, str) else other)
            ]
            for ours, other in OF_BLOCK.items()
        }
    turned = ["norm_out.linear", f"transformer_blocks.{depth - 1}.norm1_context.linear"]
    found = {"pos_embed": theirs["pos_embed.pos_embed"]}
    for ours, other in names.items():
        other = [other] if isinstance(other, str) else other
        for kind in ("weight", "bias"):
            if f"{other[0]}.{kind}" not in theirs:
                continue  # the last context stream has less
            whole = torch.cat([theirs[f"{name}.{kind}"] for name in other])
            found[f"{ours}.{kind}"] = (
                torch.cat(whole.chunk(2)[::-1]) if other[0] in turned else whole
            )
    return found


@pytest.fixture(scope="module")
def pair():
    """Ours and theirs, with the same random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = diffusers_model(NARROW).eval()
        for weight in theirs.parameters():
            nn.init.normal_(weight, std=0.2)
        ours = MMDiT(NARROW).eval()
    ours.load_state_dict(ours_from(theirs.state_dict(), NARROW.depth))  # strict
    return ours.double(), theirs.double()


def test_sd3_medium_has_the_published_size():
    with torch.device("meta"):
        ours, theirs = MMDiT(SD3_MEDIUM), diffusers_model(SD3_MEDIUM)
    assert count(ours) == count(theirs) == PARAMETERS
    shapes = {key: tuple(value.shape) for key, value in ours.state_dict().items()}
    with torch.device("meta"):
        mapped = ours_from(theirs.state_dict(), SD3_MEDIUM.depth)
    assert {key: tuple(value.shape) for key, value in mapped.items()} == shapes


def test_a_blocks_size_by_formula():
    """A stream: q, k, v and proj 4 d², feed-forward 8 d², adaLN 6 d², and biases."""
    d = 64
    with torch.device("meta"):
        middle, last = JointBlock(d, 4), JointBlock(d, 4, last=True)
    stream = 18 * d**2 + (3 + 1 + 5 + 6) * d
    assert count(middle) == 2 * stream
    assert count(last) == stream + 3 * d**2 + 3 * d + 2 * d**2 + 2 * d


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 16), (24, 2)])
def test_it_computes_what_diffusers_does(pair, height, width):
    ours, theirs = pair
    generator = torch.Generator().manual_seed(height)
    x = torch.randn(2, 16, height, width, generator=generator).double()
    context = torch.randn(2, 7, 20, generator=generator).double()
    y = torch.randn(2, 12, generator=generator).double()
    index = torch.tensor([3.0, 901.5], dtype=torch.float64)
    with torch.no_grad():
        want = theirs(x, context, y, index).sample
        got = ours(x, index, context, y)
    assert want.abs().max() > 0.1
    assert (got - want).abs().max() <= 1e-6 * want.abs().max()


def test_a_block_computes_what_diffusers_does(pair):
    ours, theirs = pair
    generator = torch.Generator().manual_seed(1)
    x, context, c = (torch.randn(2, n, 64, generator=generator).double() for n in (9, 5, 1))
    c = c[:, 0]
    for mine, other in zip(ours.joint_blocks, theirs.transformer_blocks, strict=True):
        with torch.no_grad():
            want, got = other(x, context, c), mine(context, x, c)
        assert (want[1] - got[1]).abs().max() <= 1e-10 * want[1].abs().max()
        assert (want[0] is None) == (got[0] is None)
        if want[0] is not None:
            assert (want[0] - got[0]).abs().max() <= 1e-10 * want[0].abs().max()


def test_positions_are_those_of_diffusers():
    with torch.random.fork_rng():
        theirs = diffusers_model(NARROW).pos_embed.pos_embed
    assert (grid_positions(12, 64, 64) - theirs).abs().max() <= 1e-5


def test_the_text_moves_the_picture_and_the_picture_the_text(pair):
    block = pair[0].joint_blocks[0]
    generator = torch.Generator().manual_seed(2)
    x, context, c = (torch.randn(1, n, 64, generator=generator).double() for n in (4, 3, 1))
    with torch.no_grad():
        before = block(context, x, c[:, 0])
        other = block(context + 1.5 * torch.eye(3, 64).double(), x, c[:, 0])
    assert (before[1] - other[1]).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(3, 4), (4, 26)])
def test_a_latent_that_does_not_fit_says_so(pair, size):
    with pytest.raises(ValueError, match="multiples of 2 and at most 24"):
        pair[0](
            torch.zeros(1, 16, *size), torch.zeros(1), torch.zeros(1, 1, 20), torch.zeros(1, 12)
        )

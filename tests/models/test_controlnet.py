"""ControlNet beside diffusers' on the same random weights, and what its zero convolutions promise.

Additions and outputs agree within 1e-5 of the largest in float32.
"""

from dataclasses import replace

import diffusers_keys as keys
import pytest
import torch
from diffusers import ControlNetModel
from network_pairs import difference, draw, narrow, randomise
from torch import nn

from minisd.checkpoints.control import load_control, save_control
from minisd.checkpoints.tensorfile import CheckpointError, save_tensors
from minisd.models import configs as c
from minisd.models.controlnet import (
    ControlNet,
    control_config,
    controlled,
    guess_scales,
    skip_channels,
    zero_conv,
)
from minisd.models.unet import UNet
from minisd.pipeline.control import hint_size, led

HINT = ("conv_in", *(f"blocks.{i}" for i in range(6)), "conv_out")
XL = replace(c.SDXL, transformer_depth=(1, 1, 2))  # in depth alone smaller
CONFIGS = {"sd1": c.SD1, "sd2": c.SD2, "sdxl": XL, "tiny": c.TINY}
INDEX = torch.tensor([7, 981])
IDS = torch.tensor([[64, 48, 0, 3, 64, 64], [1024, 512, 5, 0, 1024, 1024]])


def theirs_of(config, unet, vector):
    """A ControlNet's tensors by diffusers' names, apart from the table that minisd reads."""
    outer = {
        f"input_hint_block.{2 * k}": f"controlnet_cond_embedding.{n}" for k, n in enumerate(HINT)
    }
    outer |= {f"zero_convs.{i}.0": f"controlnet_down_blocks.{i}" for i in range(12)}
    outer["middle_block_out.0"] = "controlnet_mid_block"
    if len(config.hint_widths) == 3:
        outer["input_hint_block.10"] = "controlnet_cond_embedding.conv_out"
    own = {k: v for k, v in unet.items() if keys.rename(k, outer) != k}
    rest = {k: v for k, v in unet.items() if k not in own}
    return {keys.rename(k, outer): v for k, v in own.items()} | keys.unet_weights(
        rest, config, vector
    )


@pytest.fixture(scope="module", params=CONFIGS)
def both(request):
    """A U-Net and its ControlNet, ours and diffusers', and what they are given."""
    config, xl = narrow(CONFIGS[request.param]), request.param == "sdxl"
    widths = (16, 32, 64) if request.param == "tiny" else (16, 32, 96, 256)
    vector = "add_embedding" if xl else "class_embedding"
    ours = UNet(config), ControlNet(control_config(config, widths))
    for module in ours:
        randomise(module)
    unet = keys.unet(config, text_time=4 if xl else None, norm_num_groups=config.groups)
    unet.load_state_dict(keys.unet_weights(ours[0].state_dict(), config, vector))
    made = ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=widths, load_weights_from_unet=False
    )
    made.load_state_dict(theirs_of(ours[1].config, ours[1].state_dict(), vector))
    f = ours[1].config.factor
    x, hint = draw(2, 4, 8, 16), torch.rand(2, 3, 8 * f, 16 * f)
    return ours, (unet.eval(), made.eval()), (x, hint, draw(2, 5, 24, seed=2)), xl


@torch.no_grad()
def test_it_is_diffusers_controlnet(both):
    (unet, control), (their_unet, their_control), (x, hint, context), xl = both
    y, extra = None, {}
    if xl:
        from minisd.models.blocks import timestep_embedding

        pooled = draw(2, 16, seed=3)
        y = torch.cat([pooled, timestep_embedding(IDS.flatten(), 4).reshape(2, -1)], dim=1)
        extra = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": IDS}}
    added = control(x, hint, INDEX, context, y)
    down, mid = their_control(x, INDEX, context, hint, return_dict=False, **extra)
    assert difference(tuple(added), (*down, mid)) <= 1e-5
    out = unet(x, INDEX, context, y, added)
    wanted = their_unet(
        x,
        INDEX,
        context,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
        **extra,
    ).sample
    assert difference(out, wanted) <= 1e-5
    assert difference(unet(x, INDEX, context, y), wanted) > 0.1  # it leads


@torch.no_grad()
def test_guess_mode_is_diffusers(both):
    """A doubled batch, its first half not led, and a share for each connection."""
    (unet, control), (their_unet, their_control), (x, hint, context), xl = both
    if xl:
        return
    network = led(unet, control, hint[:1], scale=0.7, guess=True)
    out = network(x, INDEX, context)
    scaled = their_control(
        x[1:],
        INDEX[1:],
        context[1:],
        hint[:1],
        conditioning_scale=0.7,
        guess_mode=True,
        return_dict=False,
    )
    ramp = torch.logspace(-1, 0, len(scaled[0]) + 1)  # theirs, which ours need not be: 0.1 to 1
    official = [0.825 ** (len(ramp) - 1 - i) for i in range(len(ramp))]
    adjusted = [a / r * g for a, r, g in zip((*scaled[0], scaled[1]), ramp, official, strict=True)]
    both_halves = [torch.cat([torch.zeros_like(a), a]) for a in adjusted]
    wanted = their_unet(
        x,
        INDEX,
        context,
        down_block_additional_residuals=both_halves[:-1],
        mid_block_additional_residual=both_halves[-1],
    ).sample
    assert difference(out, wanted) <= 1e-5
    assert difference(out[:1], unet(x, INDEX, context)[:1]) <= 1e-5  # of the largest: not led


def test_the_published_numbers_of_parameters():
    """diffusers' ControlNetModel of SD 1.5 has as many."""
    with torch.device("meta"):
        counts = [
            sum(
                p.numel()
                for p in ControlNet(control_config(config, (16, 32, 96, 256))).parameters()
            )
            for config in (c.SD1, c.SD2, c.SDXL)
        ]
        theirs = sum(p.numel() for p in ControlNetModel(cross_attention_dim=768).parameters())
    assert counts == [361_279_120, 364_228_240, 1_251_014_160] and theirs == counts[0]


def test_at_first_nothing_changes_and_the_last_layers_learn_first():
    """With zero convolutions the function is the U-Net's; the gradients of their weights are
    input times gradient of the output, and those behind them are 0."""
    config = narrow(c.TINY)
    unet = UNet(config)
    randomise(unet)
    control = ControlNet.copy_of(unet, control_config(config, (16, 32)))
    x, hint, context = draw(1, 4, 8, 8), torch.rand(1, 3, 16, 16), draw(1, 5, 24, seed=2)
    added = control(x, hint, INDEX[:1], context)
    assert [a.shape[1] for a in added] == [*skip_channels(config), 2 * 32]
    assert all((a == 0).all() for a in added)
    plain, out = unet(x, INDEX[:1], context), unet(x, INDEX[:1], context, control=added)
    assert difference(out, plain) <= 1e-5
    grown = {k: v for k, v in control.state_dict().items() if k in unet.state_dict()}
    assert all(torch.equal(v, unet.state_dict()[k]) for k, v in grown.items()) and len(grown) == 140
    out.square().sum().backward()
    zeros = ("zero_convs", "middle_block_out")
    for name, p in control.named_parameters():
        learns = name.startswith(zeros)
        assert bool((p.grad != 0).any()) == learns, name


def test_equation_2_by_hand():
    """A block F(x) = a x + b per channel, and its copy, in numbers."""
    x, hint = draw(1, 2, 3, 3), draw(1, 2, 3, 3, seed=1)
    z1, z2 = zero_conv(2), zero_conv(2)

    def block(a):
        return 3 * a + 1

    assert torch.equal(controlled(x, hint, block, block, z1, z2), block(x))
    nn.init.eye_(z1.weight.data[..., 0, 0])
    nn.init.constant_(z2.bias, 0.5)
    z2.weight.data[..., 0, 0] = torch.tensor([[2.0, 0], [0, -1]])
    told = 3 * (x + hint) + 1
    wanted = 3 * x + 1 + torch.stack([2 * told[:, 0] + 0.5, -told[:, 1] + 0.5], dim=1)
    assert (controlled(x, hint, block, block, z1, z2) - wanted).abs().max() < 1e-5


def test_guess_scales_and_sizes_are_the_official_ones():
    scales = guess_scales()
    assert len(scales) == 13 and scales[12] == 1 and abs(scales[0] - 0.825**12) < 1e-12
    assert hint_size(480, 640, 512, 64) == (512, 704)  # 512 x 682.7
    assert hint_size(2000, 1000, 512, 64) == (1024, 512) and hint_size(90, 100, 64, 16) == (64, 64)


def test_a_hint_of_another_size_is_told():
    control = ControlNet(replace(control_config(narrow(c.SD1), (16, 32))))
    with pytest.raises(
        ValueError, match=r"hint must be \(1, 3, 16, 16\) for x .* got \(1, 3, 8, 8\)"
    ):
        control(draw(1, 4, 8, 8), torch.zeros(1, 3, 8, 8), INDEX[:1], draw(1, 5, 24))


# ---- files --------------------------------------------------------------------------------


def test_files_of_all_layouts_are_one(both, tmp_path):
    (unet, control), (_, theirs), _, _ = both
    if unet.config.linear_projections:  # SD 2 and XL: the same names, and seconds
        return
    state, path = control.state_dict(), tmp_path / "a.safetensors"
    folder = tmp_path / "folder"
    theirs.save_pretrained(folder)
    save_control(path, control)
    bare = tmp_path / "bare.safetensors"
    save_tensors(bare, state, {})
    whole = tmp_path / "whole.safetensors"
    save_tensors(
        whole,
        {f"control_model.{k}": v for k, v in state.items()}
        | {f"model.diffusion_model.{k}": v for k, v in unet.state_dict().items()},
        {},
    )
    files = (folder, path, bare, whole, folder / "diffusion_pytorch_model.safetensors")
    for file in files if unet.config.groups == 16 else files[:1]:  # all for the smallest
        read = load_control(file, unet.config)
        assert read.config == control.config and not read.training
        found = read.state_dict()
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_what_is_no_controlnet_of_this_model_is_told(tmp_path):
    control = ControlNet(control_config(narrow(c.SD2), (16, 32)))
    path = tmp_path / "control.safetensors"
    save_control(path, control)

    def said(config, file=path):
        with pytest.raises(CheckpointError) as error:
            load_control(file, config)
        return str(error.value)

    assert "is a ControlNet for another U-Net: its linear_projections is True, not" in said(
        narrow(c.SD1)
    )
    wide = replace(narrow(c.SD2), model_channels=64)
    assert "does not fit" in said(wide) and "wrongly shaped" in said(wide)
    state = {k: v for k, v in control.state_dict().items() if k != "zero_convs.3.0.weight"}
    save_tensors(tmp_path / "cut.safetensors", state, {})
    cut = said(narrow(c.SD2), tmp_path / "cut.safetensors")
    assert "1 missing: zero_convs.3.0.weight" in cut
    flat = control.state_dict() | {"input_hint_block.4.weight": torch.zeros(3)}
    save_tensors(tmp_path / "flat.safetensors", flat, {})
    assert "network must be convolutions" in said(narrow(c.SD2), tmp_path / "flat.safetensors")
    save_tensors(tmp_path / "lora.safetensors", {"a.lora_down.weight": torch.zeros(2, 2)}, {})
    assert "holds no ControlNet, but a LoRA" in said(narrow(c.SD2), tmp_path / "lora.safetensors")
    (tmp_path / "control.pth").write_bytes(b"PK\x03\x04" + bytes(40))
    assert "unpickling" in said(narrow(c.SD2), tmp_path / "control.pth")
    inpaint = load_control(path, replace(narrow(c.SD2), in_channels=9))
    assert inpaint.config.in_channels == 4

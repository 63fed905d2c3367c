"""The published shapes on the meta device; the norms' precision; and what bad input says."""

import gzip
import json
import pathlib
from dataclasses import replace

import pytest
import torch

from minisd.models import configs as c
from minisd.models.autoencoder import AutoencoderKL
from minisd.models.bert import BERTText
from minisd.models.blocks import GroupNorm32
from minisd.models.clip import CLIPText, OpenCLIPText
from minisd.models.unet import UNet
from minisd.models.vq import VQModel

DATA = pathlib.Path(__file__).parents[1] / "data"
COUNTS = [  # parameters and tensors, read off the original code
    (UNet, c.SD1, 859_520_964, 686),
    (UNet, c.SD1_INPAINT, 859_535_364, 686),
    (UNet, c.SD2, 865_910_724, 686),
    (UNet, c.SD2_V, 865_910_724, 686),
    (UNet, c.SD2_INPAINT, 865_925_124, 686),
    (UNet, c.SD2_DEPTH, 865_913_604, 686),
    (UNet, c.SD2_UNCLIP_H, 870_173_124, 690),
    (UNet, c.SD2_UNCLIP_L, 869_517_764, 690),
    (UNet, c.UPSCALER, 473_398_020, 687),
    (UNet, c.SDXL, 2_567_463_684, 1680),
    (UNet, c.SDXL_REFINER, 2_259_526_660, 1220),
    (UNet, c.LDM_TXT2IMG, 872_300_484, 686),
    (UNet, c.LDM_TEXT2IMG256, 403_623_939, 688),
    (UNet, c.LDM_CIN256, 400_920_579, 688),
    (UNet, c.LDM_CIN_VQ_F8, 394_984_196, 626),
    (UNet, c.LDM_FFHQ256, 274_056_163, 368),
    (UNet, c.LDM_INPAINTING, 387_245_827, 416),
    (UNet, c.LDM_SUPERRESOLUTION, 113_622_563, 306),
    (AutoencoderKL, c.KL_F8, 83_653_863, 248),
    (AutoencoderKL, c.KL_F8_SDXL, 83_653_863, 248),
    (AutoencoderKL, c.KL_F4, 55_325_927, 204),
    (VQModel, c.VQ_F4, 55_322_782, 205),
    (VQModel, c.VQ_F8, 67_717_295, 299),
    (CLIPText, c.CLIP_L, 123_060_480, 196),
    (OpenCLIPText, c.OPENCLIP_H, 354_032_641, 294),
    (OpenCLIPText, c.OPENCLIP_BIGG, 694_659_841, 390),
    (BERTText, c.BERT_LDM, 581_994_042, 422),
    (BERTText, c.BERT_LDM_256, 186_154_682, 422),
]


def count(module, config, part="", but="-"):
    state = on_meta(module, config)
    return sum(v.numel() for k, v in state.items() if k.startswith(part) and not k.startswith(but))


def test_parameters_of_parts_and_of_whole_models():
    """FACTS' sums: the first stage's halves, what SD 2 uses of its text encoder, and models."""
    assert count(AutoencoderKL, c.KL_F8, "encoder.") == 34_163_592
    assert count(AutoencoderKL, c.KL_F8, "decoder.") == 49_490_179
    assert count(AutoencoderKL, c.KL_F8, "quant_conv.") == 72
    assert count(AutoencoderKL, c.KL_F8, "post_quant_conv.") == 20
    assert count(VQModel, c.VQ_F4, "quantize.") == 24_576
    unused = ("transformer.resblocks.23.", "text_projection", "logit_scale")
    assert count(OpenCLIPText, c.OPENCLIP_H, but=unused) == 340_387_840
    kl = count(AutoencoderKL, c.KL_F8)
    clip, big = count(CLIPText, c.CLIP_L), count(OpenCLIPText, c.OPENCLIP_BIGG)
    assert count(UNet, c.SD1) + kl + clip == 1_066_235_307
    assert count(UNet, c.SD2) + kl + count(OpenCLIPText, c.OPENCLIP_H) == 1_303_597_228
    assert count(UNet, c.SDXL) + kl + clip + big == 3_468_837_868
    assert count(UNet, c.SDXL_REFINER) + kl + big == 3_037_840_364
    assert count(UNet, c.LDM_TXT2IMG) + count(BERTText, c.BERT_LDM) + kl == 1_537_948_389


SD1_TEXT, SD2_TEXT = "cond_stage_model.transformer.", "cond_stage_model.model."
FILES = {
    "sd1": [(UNet, c.SD1), (AutoencoderKL, c.KL_F8), (CLIPText, c.CLIP_L, SD1_TEXT)],
    "sd1_inpaint": [
        (UNet, c.SD1_INPAINT),
        (AutoencoderKL, c.KL_F8),
        (CLIPText, c.CLIP_L, SD1_TEXT),
    ],
    "sd2_v": [(UNet, c.SD2_V), (AutoencoderKL, c.KL_F8), (OpenCLIPText, c.OPENCLIP_H, SD2_TEXT)],
    "sdxl_base": [
        (UNet, c.SDXL),
        (AutoencoderKL, c.KL_F8_SDXL),
        (CLIPText, c.CLIP_L_SDXL, "conditioner.embedders.0.transformer."),
        (OpenCLIPText, c.OPENCLIP_BIGG, "conditioner.embedders.1.model."),
    ],
    "sdxl_refiner": [
        (UNet, c.SDXL_REFINER),
        (AutoencoderKL, c.KL_F8_SDXL),
        (OpenCLIPText, c.OPENCLIP_BIGG, "conditioner.embedders.0.model."),
    ],
}
PREFIX = {UNet: "model.diffusion_model.", AutoencoderKL: "first_stage_model."}


def on_meta(module, config):
    with torch.device("meta"):
        return module(config).state_dict()


@pytest.mark.parametrize(
    ("module", "config", "parameters", "tensors"),
    COUNTS,
    ids=[f"{m.__name__}-{n}" for m, _, n, _ in COUNTS],
)
def test_parameters(module, config, parameters, tensors):
    state = on_meta(module, config)
    assert sum(v.numel() for v in state.values()) == parameters and len(state) == tensors


@pytest.mark.parametrize("name", FILES)
def test_keys_and_shapes_are_the_published_ones(name):
    """Every key of the checkpoint belongs to a part with its shape, or is a buffer of schedules."""
    with gzip.open(DATA / f"{name}.json.gz") as file:
        published = {key: tuple(shape) for key, (_, shape) in json.load(file)["keys"].items()}
    for module, config, *prefix in FILES[name]:
        prefix = prefix[0] if prefix else PREFIX[module]
        for key, value in on_meta(module, config).items():
            assert published.pop(prefix + key, None) == tuple(value.shape), key
    rest = {key.rpartition(".")[2] for key in published}
    buffers = {"position_ids", "sigmas", "betas", "posterior_variance", "scale_factor"}
    assert all("alphas_cumprod" in k or "posterior_" in k or k in buffers for k in rest), rest


# ---- norms ----------------------------------------------------------------------------------


def norms(dtype):
    """A norm with weights of its own, and inputs of the dtype with a mean far from 0."""
    draw = torch.Generator().manual_seed(0)
    norm = GroupNorm32(64)
    torch.nn.init.normal_(norm.weight, 1, 0.1, generator=draw)
    torch.nn.init.normal_(norm.bias, 0, 0.1, generator=draw)
    for shape in ((2, 64, 9, 7), (1, 64, 200)):
        for spread, mean in ((1, 0), (0.5, 3), (0.003, 0), (300, 100)):
            yield norm.to(dtype), (torch.randn(shape, generator=draw) * spread + mean).to(dtype)


def by_definition(norm, x):
    """(x - mean) / √(variance + eps) of each group, in float64, times the weight plus the bias."""
    groups = x.double().reshape(len(x), 32, -1)
    centred = groups - groups.mean(2, keepdim=True)
    normed = centred / ((centred**2).mean(2, keepdim=True) + norm.eps).sqrt()
    shape = (1, -1, *[1] * (x.ndim - 2))
    return normed.reshape(x.shape) * norm.weight.double().reshape(shape) + (
        norm.bias.double().reshape(shape)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_norm_of_a_short_x_is_the_official_to_one_rounding(dtype):
    """To float32, normalised, and back. float32's own error, 6e-6 of these, may turn a rounding."""
    for norm, x in norms(dtype):
        weight, bias = norm.weight.float(), norm.bias.float()
        wide = torch.nn.functional.group_norm(x.float(), 32, weight, bias, norm.eps)
        ours, eps = norm(x), torch.finfo(dtype).eps
        assert ours.dtype == dtype
        assert ((ours - wide).abs() <= eps / 2 * wide.abs() + 6e-6).all()
        exact = by_definition(norm, x)
        assert ((ours - exact).abs() <= eps / 2 * exact.abs() + 6e-6).all()
        official = wide.to(dtype)
        assert ((ours.float() - official.float()).abs() <= eps * wide.abs() + 6e-6).all()


def test_a_norm_in_float64_is_exact():
    for norm, x in norms(torch.float64):
        assert (norm(x) - by_definition(norm, x)).abs().max() < 1e-12


def test_groups_are_the_configs_in_every_norm():
    published = [(m, config, 32) for m, config, *_ in COUNTS if m in (UNet, AutoencoderKL, VQModel)]
    own = [(UNet, c.TINY, 16), (AutoencoderKL, c.TINY_KL, 4), (VQModel, c.TINY_VQ, 4)]
    for module, config, groups in published + own:
        with torch.device("meta"):
            found = [m for m in module(config).modules() if isinstance(m, torch.nn.GroupNorm)]
        assert len(found) > 10 and {norm.num_groups for norm in found} == {groups}


# ---- bad input ------------------------------------------------------------------------------

SMALL = {"model_channels": 32, "context_dim": 8, "heads": 2}


def small(**changes):
    torch.manual_seed(0)
    return UNet(replace(c.SD1, **{**SMALL, **changes}))


X, I, CONTEXT = torch.zeros(2, 4, 16, 16), torch.zeros(2, dtype=torch.long), torch.zeros(2, 5, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[:, :3], I, CONTEXT), r"x must be \(b, 4, h, w\).*multiples of 8.*\(2, 3, 16, 16\)"),
        ((X[:, :, :12], I, CONTEXT), "multiples of 8"),
        ((X[0], I, CONTEXT), "x must be"),
        ((X, I[:1], CONTEXT), r"index must be \(2,\)"),
        ((X, I, CONTEXT[..., :7]), r"context must be \(2, n, 8\), got \(2, 5, 7\)"),
        ((X, I, CONTEXT[:1]), "context must be"),
        ((X, I, CONTEXT[:, 0]), r"context must be \(2, n, 8\), got \(2, 8\)"),
        ((X, I, CONTEXT[None]), "context must be"),
        ((X, I), "context must be"),
        ((X, I, CONTEXT, I), "y must not be given"),
    ],
)
def test_wrong_input_of_the_unet(arguments, message):
    with pytest.raises(ValueError, match=message):
        small()(*arguments)


def test_wrong_vector_of_the_unet():
    with pytest.raises(ValueError, match="y must be given"):
        small(vector_dim=6)(X, I, CONTEXT)
    with pytest.raises(ValueError, match=r"y must be \(2, 6\), got \(2, 5\)"):
        small(vector_dim=6)(X, I, CONTEXT, torch.zeros(2, 5))
    for y, message in [
        (torch.zeros(2), r"y must be \(2,\) whole numbers, got torch.float32 \(2,\)"),
        (I[:1], r"y must be \(2,\) whole numbers"),
        (I + 10, r"from 0 to 9, got \[10, 10\]"),
        (I - 1, "from 0 to 9"),
    ]:
        with pytest.raises(ValueError, match=message):
            small(classes=10)(X, I, CONTEXT, y)
    with pytest.raises(ValueError, match="context must be None"):
        small(context_dim=None)(X, I, CONTEXT)


FIRST_STAGES = [(AutoencoderKL, c.KL_F8), (AutoencoderKL, c.KL_F4), (VQModel, c.VQ_F4)]


@pytest.mark.parametrize(("module", "config"), FIRST_STAGES)
def test_wrong_input_of_a_first_stage(module, config):
    with torch.device("meta"):
        stage = module(config)
    f, z = config.factor, config.embed_dim
    for shape in [(1, 4, 64, 64), (1, 1, 64, 64), (1, 3, 64 + f // 2, 64), (3, 64, 64)]:
        with pytest.raises(ValueError) as raised:
            stage.encode(torch.zeros(shape, device="meta"))
        assert str(raised.value) == (
            f"a picture must be (b, 3, h, w) with h and w multiples of {f}, got {shape}"
        )
    for shape in [(1, z + 1, 8, 8), (1, 2 * z, 8, 8), (z, 8, 8)]:
        with pytest.raises(ValueError) as raised:
            stage.decode(torch.zeros(shape, device="meta"))
        assert str(raised.value) == f"a latent must be (b, {z}, h, w), got {shape}"
    assert stage.decode(torch.zeros(1, z, 5, 7, device="meta")).shape == (1, 3, 5 * f, 7 * f)


def test_wrong_indices_of_codes():
    stage = VQModel(replace(c.VQ_F4, channels=32, codes=8))
    for indices, message in [
        (torch.full((1, 4, 4), 8), r"from 0 to 7, got \(1, 4, 4\) from 8 to 8"),
        (torch.full((1, 4, 4), -1), "from -1 to -1"),
        (I.expand(4, 2), r"indices must be \(b, h, w\).*got \(4, 2\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            stage.decode_indices(indices)


@pytest.mark.parametrize(
    ("module", "config"),
    [(CLIPText, c.CLIP_L), (OpenCLIPText, c.OPENCLIP_H), (BERTText, c.BERT_LDM)],
)
def test_wrong_tokens(module, config):
    text = module(replace(config, width=8, layers=1, heads=2, vocabulary=50))
    for tokens, message in [
        (torch.zeros(1, 78, dtype=torch.long), r"n up to 77, got \(1, 78\)"),
        (torch.zeros(77, dtype=torch.long), r"tokens must be \(b, n\).*got \(77,\)"),
        (torch.full((1, 3), 50), "tokens must be from 0 to 49"),
        (torch.full((1, 3), -1), "tokens must be from 0 to 49"),
    ]:
        with pytest.raises(ValueError, match=message):
            text(tokens)


TEXTS = [(CLIPText, c.CLIP_L), (OpenCLIPText, c.OPENCLIP_H), (BERTText, c.BERT_LDM)]


@pytest.mark.parametrize(("module", "config"), TEXTS)
def test_text_encoders_run_on_the_meta_device(module, config):
    with torch.device("meta"):
        told = module(config)(torch.zeros(6, config.length, dtype=torch.long))
    assert told.context.is_meta and told.context.shape == (6, config.length, config.width)

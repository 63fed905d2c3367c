"""The published shapes on the meta device: parameter counts, key names; and what bad input says."""

import gzip
import json
import pathlib

import pytest
import torch

from minisd import configs as c
from minisd.models.autoencoder import AutoencoderKL
from minisd.models.bert import BERTText
from minisd.models.clip import CLIPText, OpenCLIPText
from minisd.models.unet import UNet
from minisd.models.vq import VQModel

DATA = pathlib.Path(__file__).parent / "data"
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


SMALL = {"model_channels": 32, "context_dim": 8, "heads": 2}


def small(**changes):
    from dataclasses import replace

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
        ((X, I, CONTEXT[..., :7]), r"context must be \(2, 'n', 8\), got \(2, 5, 7\)"),
        ((X, I, CONTEXT[:1]), "context must be"),
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

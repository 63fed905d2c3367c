"""diffusers' folders: the table of names both ways at full size, and folders that it wrote."""

import dataclasses
import shutil

import diffusers
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from minisd.checkpoints import loading as checkpoint
from minisd.checkpoints.diffusers_names import from_diffusers, modern, table, to_diffusers
from minisd.checkpoints.families import FAMILIES, Family, Part, on_meta
from minisd.checkpoints.loading import info, load
from minisd.checkpoints.tensorfile import CheckpointError
from minisd.models import autoencoder, clip, unet
from minisd.models import configs as c

# ---- the table, at full size, against the other libraries' own modules -----------------------

DOWN, UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
SD2 = {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": (DOWN[0], DOWN[1], DOWN[1]),
    "up_block_types": (UP[1], UP[1], UP[0]),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
REFINER = SDXL | {
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": (DOWN[0], DOWN[1], DOWN[1], DOWN[0]),
    "up_block_types": (UP[0], UP[1], UP[1], UP[0]),
    "transformer_layers_per_block": 4,
    "attention_head_dim": (6, 12, 24, 24),
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}
UPSCALER = {
    "in_channels": 7,
    "block_out_channels": (256, 512, 512, 1024),
    "down_block_types": (DOWN[0], DOWN[1], DOWN[1], DOWN[1]),
    "up_block_types": (UP[1], UP[1], UP[1], UP[0]),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "num_class_embeds": 1000,
    "only_cross_attention": (True, True, True, False),
}
UNCLIP = SD2 | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2048}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
VAE_F4 = {k: v[:3] if isinstance(v, tuple) else v for k, v in VAE.items()}
VAE_F4["block_out_channels"] = (128, 256, 512)


def text_config(width=768, layers=12, heads=12, **changes):
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    sizes |= {"num_attention_heads": heads, "projection_dim": width, "bos_token_id": 0}
    return CLIPTextConfig(**sizes, **changes)


def unet_of(settings):
    return lambda: UNet2DConditionModel(**settings)


PAIRS = {
    "sd1": (unet.UNet, c.SD1, unet_of({"cross_attention_dim": 768})),
    "sd1-inpaint": (
        unet.UNet,
        c.SD1_INPAINT,
        unet_of({"cross_attention_dim": 768, "in_channels": 9}),
    ),
    "sd2": (unet.UNet, c.SD2, unet_of(SD2)),
    "sd2-depth": (unet.UNet, c.SD2_DEPTH, unet_of(SD2 | {"in_channels": 5})),
    "unclip-h": (unet.UNet, c.SD2_UNCLIP_H, unet_of(UNCLIP)),
    "upscaler": (unet.UNet, c.UPSCALER, unet_of(UPSCALER)),
    "sdxl": (unet.UNet, c.SDXL, unet_of(SDXL)),
    "sdxl-refiner": (unet.UNet, c.SDXL_REFINER, unet_of(REFINER)),
    "vae": (autoencoder.AutoencoderKL, c.KL_F8, lambda: AutoencoderKL(**VAE)),
    "vae-f4": (autoencoder.AutoencoderKL, c.KL_F4, lambda: AutoencoderKL(**VAE_F4)),
    "clip-l": (clip.CLIPText, c.CLIP_L, lambda: CLIPTextModel(text_config())),
    "openclip-h": (
        clip.OpenCLIPText,
        c.OPENCLIP_H,
        lambda: CLIPTextModelWithProjection(text_config(1024, 24, 16)),
    ),
    "openclip-bigg": (
        clip.OpenCLIPText,
        c.OPENCLIP_BIGG,
        lambda: CLIPTextModelWithProjection(text_config(1280, 32, 20)),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_table_both_ways_at_full_size(name):
    """Our keys under diffusers' names are its own module's, with their shapes; and back."""
    module, config, make = PAIRS[name]
    ours = on_meta(Part(module, config, ""))
    rows = table(ours, "class_embedding" if name == "unclip-h" else "add_embedding")
    state = {k: v for k, v in ours.state_dict().items() if k != "logit_scale"}
    with torch.device("meta"):
        theirs = {modern(k): tuple(v.shape) for k, v in make().state_dict().items()}
    translated = to_diffusers(state, rows)
    assert {key: tuple(value.shape) for key, value in translated.items()} == theirs
    back = from_diffusers(translated, rows)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in state.items()}


@pytest.mark.parametrize("name", ["vae", "openclip-h"])
def test_numbers_come_back(name):
    """Where the table does more than rename: Linear and convolution, transposed, three in one."""
    module, config, _ = PAIRS[name]
    widths = {"channels": 32} if name == "vae" else {"width": 32, "layers": 2, "projection": 16}
    widths |= {} if name == "vae" else {"vocabulary": 50, "heads": 2}
    ours = module(dataclasses.replace(config, **widths))
    rows, state = table(ours), ours.state_dict()
    back = from_diffusers(to_diffusers(state, rows), rows)
    assert all(torch.equal(value, state[key]) for key, value in back.items())
    assert set(state) - set(back) <= {"logit_scale"}


def test_what_diffusers_has_no_name_for():
    with pytest.raises(ValueError, match="encoder.down.3.attn.0.norm.weight has no name"):
        table(
            on_meta(Part(autoencoder.AutoencoderKL, dataclasses.replace(c.VQ_F8, codes=None), ""))
        )


# ---- folders that diffusers and transformers wrote ---------------------------------------------

SMALL = {"block_out_channels": (32, 64), "down_block_types": DOWN[::-1], "up_block_types": UP}
SMALL |= {"layers_per_block": 1, "attention_head_dim": (2, 4)}
SMALL_UNET = {"model_channels": 32, "channel_mult": (1, 2), "res_blocks": 1}
SMALL_UNET |= {"attention_factors": (1,), "head_channels": 16, "heads": None}
SMALL_VAE = {"block_out_channels": (32, 64), "down_block_types": ("DownEncoderBlock2D",) * 2}
SMALL_VAE |= {"up_block_types": ("UpDecoderBlock2D",) * 2, "layers_per_block": 1}
WIDTHS = {"width": 32, "layers": 3, "heads": 2, "vocabulary": 60}


def resized(name, **text):
    """The published family with the small networks that `folder` writes."""
    parts = dict(FAMILIES[name].parts)
    for key, changes in (
        ("unet", SMALL_UNET),
        ("vae", {"channels": 32, "channel_mult": (1, 2), "res_blocks": 1}),
        *((key, WIDTHS | text) for key in parts if key.startswith("text")),
    ):
        parts[key] = parts[key]._replace(config=dataclasses.replace(parts[key].config, **changes))
    return Family(name, parts)


def shaken(module):
    """The module with all parameters drawn anew: no zeros, and no norm at its beginning."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return module.eval()


def text_model(kind, layers=3, activation="gelu", **changes):
    return shaken(kind(text_config(32, layers, 2, vocab_size=60, hidden_act=activation, **changes)))


@pytest.fixture
def sd2(tmp_path):
    """A small SD 2 folder, as published: a text encoder one layer short, its scheduler says v."""
    parts = {
        "unet": shaken(
            UNet2DConditionModel(
                **SMALL | {"use_linear_projection": True}, cross_attention_dim=1024
            )
        ),
        "vae": shaken(AutoencoderKL(**SMALL_VAE, latent_channels=4)),
        "text_encoder": text_model(CLIPTextModel, 2),
    }
    for name, module in parts.items():
        module.save_pretrained(tmp_path / name)
    diffusers.DDIMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path / "scheduler")
    return tmp_path, parts


def test_a_folder_of_sd2_computes_what_diffusers_does(sd2):
    path, theirs = sd2
    ours = load(path, resized("sd2", projection=32))
    assert ours.unet.config.prediction == "v" and ours.text.config.layers == 2
    torch.manual_seed(2)
    x, index, context = torch.randn(2, 4, 8, 8), torch.tensor([3, 500]), torch.randn(2, 5, 1024)
    tokens = torch.randint(1, 59, (2, 7))
    with torch.no_grad():
        pairs = [
            (ours.unet(x, index, context), theirs["unet"](x, index, context).sample),
            (ours.vae.decode(x), theirs["vae"].decode(x).sample),
            (ours.text(tokens).context, theirs["text_encoder"](tokens).last_hidden_state),
        ]
    for a, b in pairs:
        assert (a - b).abs().max() <= 1e-5 and b.std() > 0.01


def test_the_two_text_encoders_of_sdxl(tmp_path):
    """hidden_states[-2] of both, and the second's projected vector of the end token."""
    first = text_model(CLIPTextModel, activation="quick_gelu")
    second = text_model(CLIPTextModelWithProjection, eos_token_id=2)
    first.save_pretrained(tmp_path / "text_encoder")
    second.save_pretrained(tmp_path / "text_encoder_2")
    known = resized("sdxl")
    bigg = known.parts["text_2"]
    known.parts["text_2"] = bigg._replace(config=dataclasses.replace(bigg.config, projection=32))
    ours = load(tmp_path, known, parts=["text"])
    tokens = torch.tensor([[5, 9, 59, 0, 0], [7, 59, 0, 0, 0]])
    with torch.no_grad():
        for mine, their in ((ours.text, first), (ours.text_2, second)):
            hidden = their(tokens, output_hidden_states=True).hidden_states[-2]
            assert (mine(tokens).context - hidden).abs().max() <= 1e-5
        pooled = second(tokens).text_embeds
        assert (ours.text_2(tokens).pooled - pooled).abs().max() <= 1e-5 and pooled.std() > 0.01
    shutil.move(tmp_path / "text_encoder_2", tmp_path / "refiner" / "text_encoder_2")
    known = Family("sdxl-refiner", {"text": known.parts["text_2"]})
    alone = load(tmp_path / "refiner", known, parts=["text"]).text  # its folder has no text_encoder
    assert same(alone, ours.text_2)
    assert (alone(tokens).pooled - ours.text_2(tokens).pooled).abs().max() <= 1e-5


def same(a, b):
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


def test_shards_half_precision_and_old_names(sd2):
    path, theirs = sd2
    known = resized("sd2", projection=32)
    plain = load(path, known)
    theirs["unet"].save_pretrained(path / "unet", max_shard_size="200KB")
    (path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert (path / "unet" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    file = path / "vae" / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = load_file(file)
    for new, before in names.items():
        old = {
            key.replace(f"attentions.0.{new}.", f"attentions.0.{before}."): v
            for key, v in old.items()
        }
    save_file(old, file)
    file = path / "text_encoder" / "model.safetensors"
    bare = {key.removeprefix("text_model."): value for key, value in load_file(file).items()}
    long = {"text_model." + key: value for key, value in bare.items()}
    for tensors in (bare, long | {"text_model.embeddings.position_ids": torch.arange(77)[None]}):
        save_file(tensors, file)
        again = load(path, known)
        assert all(same(a, b) for a, b in zip(again[1:4], plain[1:4], strict=True))
    half = {key: (2 * value).half() for key, value in long.items()}
    save_file(half, file.with_name("model.fp16.safetensors"))
    assert same(load(path, known).text, plain.text)  # float32 asked for, float32 read
    bias = load(path, known, dtype=torch.float16, parts=["text"]).text.ln_final.bias
    assert torch.equal(bias, half["text_model.final_layer_norm.bias"])
    file.unlink()
    bias = load(path, known, parts=["text"]).text.ln_final.bias
    assert torch.equal(bias, half["text_model.final_layer_norm.bias"].float())


def test_eps_or_v_is_told_by_the_scheduler_or_the_caller(sd2):
    path, _ = sd2
    known = resized("sd2", projection=32)
    assert load(path, known, "eps", parts=["unet"]).unet.config.prediction == "eps"
    (path / "scheduler" / "scheduler_config.json").unlink()
    assert load(path, known, parts=["unet"]).unet.config.prediction == "eps"  # of the config told
    with pytest.raises(CheckpointError, match="SD 2's 512-base predicts eps"):
        load(path, "sd2", parts=["unet"])


def test_info_of_a_folder(sd2):
    path, theirs = sd2
    said = info(path)
    assert said.family == "sd2" and list(said.parts) == ["unet", "vae", "text_encoder"]
    for name, part in said.parts.items():
        assert part.parameters == sum(p.numel() for p in theirs[name].parameters())


# ---- what is wrong with a folder ----------------------------------------------------------------


def test_wrong_folders(sd2):
    path, _ = sd2
    known = resized("sd2", projection=32)
    with pytest.raises(CheckpointError, match="is a checkpoint of sd2, not of sd1"):
        load(path, "sd1")
    with pytest.raises(CheckpointError, match="one set of weights"):
        load(path, known, ema=True)
    file = path / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_in.weights"] = tensors.pop("conv_in.weight")
    save_file(tensors, file)
    with pytest.raises(
        CheckpointError, match=r"missing: conv_in.weight \(the file has conv_in.wei"
    ):
        load(path, known)
    file.unlink()
    torch.save(tensors, file.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(CheckpointError, match="can run any code"):
        load(path, known)
    file.with_name("diffusion_pytorch_model.bin").unlink()
    with pytest.raises(
        CheckpointError, match="unet holds no weights: no diffusion_pytorch_model, "
    ):
        load(path, known)
    shutil.rmtree(path / "unet")
    with pytest.raises(CheckpointError, match=f"{path} has no subfolder unet/"):
        load(path, known)


def test_three_that_do_not_make_one(sd2):
    path, _ = sd2
    file = path / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    key = next(key for key in tensors if key.endswith("0.self_attn.k_proj.weight"))
    save_file(tensors | {key: torch.zeros(32, 31)}, file)
    with pytest.raises(CheckpointError, match=r"these do not make .*0.attn.in_proj_weight: .*31\)"):
        load(path, resized("sd2", projection=32))


def test_a_scheduler_that_is_not_json(sd2):
    path, _ = sd2
    config = path / "scheduler" / "scheduler_config.json"
    config.write_text("v_prediction")
    with pytest.raises(CheckpointError, match="scheduler_config.json is not JSON"):
        load(path, resized("sd2", projection=32))


def test_other_names_of_the_weights(sd2):
    """The index as older versions wrote it, and the weights without averaging alone."""
    path, theirs = sd2
    known = resized("sd2", projection=32)
    plain = load(path, known)
    theirs["unet"].save_pretrained(path / "unet", max_shard_size="200KB")
    (path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    index = path / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    for name in ("index.fp16.json", "fp16.index.json"):
        index = index.rename(index.with_name(f"diffusion_pytorch_model.safetensors.{name}"))
        assert same(load(path, known).unet, plain.unet)
    vae = path / "vae" / "diffusion_pytorch_model.safetensors"
    vae.rename(vae.with_name("diffusion_pytorch_model.non_ema.safetensors"))
    assert same(load(path, known).vae, plain.vae)


def test_what_sampling_does_not_use_may_be_there(tmp_path):
    text_model(CLIPTextModel, activation="quick_gelu").save_pretrained(tmp_path / "text_encoder")
    known = Family("sd1", {"text": resized("sd1").parts["text"]})
    plain = load(tmp_path, known, parts=["text"]).text
    file = tmp_path / "text_encoder" / "model.safetensors"
    more = {"logit_scale": torch.ones(()), "text_projection.weight": torch.ones(32, 32)}
    save_file(load_file(file) | more, file)
    assert same(load(tmp_path, known, parts=["text"]).text, plain)


def test_the_advice_for_a_folder_of_pickles_works(sd2):
    """The old name pytorch_model.bin becomes one that is found."""
    path, _ = sd2
    known = resized("sd2", projection=32)
    plain, file = load(path, known), path / "text_encoder" / "model.safetensors"
    torch.save(load_file(file), file.with_name("pytorch_model.bin"))
    file.unlink()
    with pytest.raises(CheckpointError, match="can run any code") as error:
        load(path, known)
    exec("\n".join(line[4:] for line in str(error.value).splitlines()[1:]), {})
    assert same(load(path, known).text, plain.text)


def test_a_missing_subfolder_is_found_before_anything_is_read(sd2, monkeypatch):
    path, _ = sd2
    known = resized("sd2", projection=32)
    shutil.rmtree(path / "vae")
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_weight", lambda *_: pytest.fail("read"))
        with pytest.raises(CheckpointError, match=f"{path} has no subfolder vae/") as error:
            load(path, known)
    assert "load(parts=[...]) takes the other parts alone" in str(error.value)
    assert set(load(path, known, parts=["unet", "text"]).modules) == {"unet", "text"}


def test_a_folder_with_a_transformer_in_the_unets_place(sd2):
    path, _ = sd2
    (path / "unet").rename(path / "transformer")
    for function in (load, info):
        with pytest.raises(CheckpointError, match="holds a transformer in the U-Net's place"):
            function(path)

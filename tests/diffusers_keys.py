"""Other libraries' networks of the same settings, and our keys under their names.

Written for the tests alone, and apart from the table that minisd itself reads, so that one mistake
does not stand on both sides. Every function takes a dict by our names (weights, or gradients: all
changes are linear) and gives one by theirs.
"""

import re

from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel, VQModel

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
OUTSIDE = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "{}.linear_1",
    "label_emb.0.2": "{}.linear_2",
    "label_emb": "{}",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def rename(key, table):
    """The key with its beginning replaced, by the first entry that is one; else the key."""
    for ours, theirs in table.items():
        if key.startswith(ours + "."):
            return theirs + key[len(ours) :]
    return key


# ---- U-Net --------------------------------------------------------------------------------


def unet(config, text_time=None, **changes):
    """diffusers' U-Net of a UNetConfig. text_time: SDXL's numbers' width, or None."""
    widths = [m * config.model_channels for m in config.channel_mult]
    attends = [2**i in config.attention_factors for i in range(len(widths))]
    settings = {
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": widths,
        "layers_per_block": config.res_blocks,
    }
    if config.context_dim is None:
        return _unconditional(config, attends, {**settings, **changes})
    if text_time:
        settings |= {"addition_embed_type": "text_time", "addition_time_embed_dim": text_time}
    elif config.vector_dim:
        settings["class_embed_type"] = "projection"
    return UNet2DConditionModel(
        **settings,
        down_block_types=[("CrossAttn" if a else "") + "DownBlock2D" for a in attends],
        up_block_types=[("CrossAttn" if a else "") + "UpBlock2D" for a in reversed(attends)],
        attention_head_dim=[config.heads or w // config.head_channels for w in widths],
        transformer_layers_per_block=config.transformer_depth,
        cross_attention_dim=config.context_dim,
        use_linear_projection=config.linear_projections,
        only_cross_attention=[not s for s in config.self_attention],
        num_class_embeds=config.classes,
        projection_class_embeddings_input_dim=config.vector_dim,
        **changes,
    )


def _unconditional(config, attends, settings):
    plain = ("ResnetDownsample", "ResnetUpsample") if config.resblock_updown else ("Down", "Up")
    kind = "resnet" if config.resblock_updown else "conv"
    model = UNet2DModel(
        **settings,
        down_block_types=[f"{'AttnDown' if a else plain[0]}Block2D" for a in attends],
        up_block_types=[f"{'AttnUp' if a else plain[1]}Block2D" for a in reversed(attends)],
        attention_head_dim=config.head_channels,
        downsample_type=kind,
        upsample_type=kind,
    )
    for part in model.modules():
        if config.heads and hasattr(part, "to_q"):
            part.heads = config.heads  # its settings know a head's width only
    return model


def unet_weights(ours, config, vector="class_embedding"):
    """Our U-Net's tensors by diffusers' names; vector: what theirs calls label_emb."""
    theirs = {}
    for key, value in ours.items():
        name = _unet_name(key, config).format(vector)
        if ".qkv." in name:  # a 1-D convolution whose rows are, for each head, q, k and v
            heads = config.heads or len(value) // 3 // config.head_channels
            parts = value.reshape(heads, 3, -1, *value.shape[1:2]).unbind(1)
            for letter, part in zip("qkv", parts, strict=True):
                flat = part.reshape(-1, *value.shape[1:2])
                theirs[name.replace(".qkv.", f".to_{letter}.")] = flat
        elif value.ndim == 3:
            theirs[name] = value.squeeze(2)
        else:
            theirs[name] = value
    return theirs


def _unet_name(key, config):
    if rename(key, OUTSIDE) != key:
        return rename(key, OUTSIDE)
    stage, rest = re.fullmatch(r"(\w+_block(?:s\.\d+)?)\.(.*)", key).groups()
    side, _, number = stage.partition(".")
    layer, rest = rest.split(".", 1)
    is_resnet = rename(rest, RESNET) != rest
    rest = rename(rest, RESNET)
    if config.context_dim is None and not is_resnet:
        rest = rename(rest, {"norm": "group_norm", "proj_out": "to_out.0"})
    if side == "middle_block":
        return "mid_block." + ["resnets.0.", "attentions.0.", "resnets.1."][int(layer)] + rest
    if side == "input_blocks":
        level, i = divmod(int(number) - 1, config.res_blocks + 1)
        if i == config.res_blocks:
            rest = rest if is_resnet else rename(rest, {"op": "conv"})
            return f"down_blocks.{level}.downsamplers.0.{rest}"
        return f"down_blocks.{level}.{['resnets', 'attentions'][int(layer)]}.{i}.{rest}"
    level, i = divmod(int(number), config.res_blocks + 1)
    if rest.startswith("conv.") or (is_resnet and layer != "0"):
        return f"up_blocks.{level}.upsamplers.0.{rest}"
    return f"up_blocks.{level}.{['resnets', 'attentions'][int(layer)]}.{i}.{rest}"


# ---- first stages -------------------------------------------------------------------------


def autoencoder(config):
    """diffusers' AutoencoderKL or VQModel of an AutoencoderConfig."""
    attends = [i in config.attention_levels for i in range(len(config.channel_mult))]
    settings = {
        "block_out_channels": [m * config.channels for m in config.channel_mult],
        "layers_per_block": config.res_blocks,
        "latent_channels": config.z_channels,
        "down_block_types": [f"{'Attn' if a else ''}DownEncoderBlock2D" for a in attends],
        "up_block_types": [f"{'Attn' if a else ''}UpDecoderBlock2D" for a in reversed(attends)],
    }
    if config.codes is None:
        return AutoencoderKL(**settings)
    return VQModel(**settings, num_vq_embeddings=config.codes, vq_embed_dim=config.embed_dim)


MIDDLE = {
    "mid.block_1": "mid_block.resnets.0",
    "mid.attn_1": "mid_block.attentions.0",
    "mid.block_2": "mid_block.resnets.1",
}
ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}


def autoencoder_weights(ours, config):
    """Our first stage's tensors by diffusers' names."""
    theirs = {}
    last = len(config.channel_mult) - 1
    for key, value in ours.items():
        side, _, rest = key.partition(".")
        if side in ("encoder", "decoder"):
            rest = rename(rest, {"norm_out": "conv_norm_out"})
            rest = re.sub(r"^down\.(\d+)", r"down_blocks.\1", rest)
            rest = re.sub(r"^up\.(\d+)", lambda m: f"up_blocks.{last - int(m[1])}", rest)
            for ours_part, theirs_part in MIDDLE.items():
                rest = rest.replace(ours_part, theirs_part)
            rest = rest.replace(".block.", ".resnets.").replace(".attn.", ".attentions.")
            rest = rest.replace("sample.conv", "samplers.0.conv")
            rest = rest.replace("nin_shortcut", "conv_shortcut")
            where = re.match(r"(.*attentions\.\d+)\.(.*)", rest)
            if where:
                rest = f"{where[1]}.{rename(where[2], ATTENTION)}"
                value = value.flatten(1) if value.ndim == 4 else value
        theirs[f"{side}.{rest}"] = value
    return theirs


# ---- text encoders ------------------------------------------------------------------------

RESBLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def openclip_weights(ours):
    """OpenCLIP's text tensors by transformers' names; logit_scale, which neither uses, left out."""
    theirs = {}
    for key, value in ours.items():
        block = re.match(r"transformer\.resblocks\.(\d+)\.(.*)", key)
        if key == "logit_scale":
            continue
        if key == "text_projection":
            theirs["text_projection.weight"] = value.T
        elif not block:
            name = rename(key + ".", {"ln_final": "final_layer_norm"})[:-1]
            name = rename(name + ".", {"token_embedding": "embeddings.token_embedding"})[:-1]
            name = name.replace("positional_embedding", "embeddings.position_embedding.weight")
            theirs["text_model." + name] = value
        elif "in_proj" in block[2]:
            end = block[2].replace("attn.in_proj_", "")
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                name = f"text_model.encoder.layers.{block[1]}.self_attn.{letter}_proj.{end}"
                theirs[name] = part
        else:
            name = rename(block[2], RESBLOCK)
            theirs[f"text_model.encoder.layers.{block[1]}.{name}"] = value
    return theirs


BERT = {
    "0.0": "self_attn_layer_norm",
    "0.1.to_q": "self_attn.q_proj",
    "0.1.to_k": "self_attn.k_proj",
    "0.1.to_v": "self_attn.v_proj",
    "0.1.to_out": "self_attn.out_proj",
    "1.0": "final_layer_norm",
    "1.1.net.0.0": "fc1",
    "1.1.net.2": "fc2",
}


def bert_weights(ours):
    """LDM-1.4B's text transformer by diffusers' names."""
    theirs = {}
    for key, value in ours.items():
        key = key.removeprefix("transformer.")
        layer = re.match(r"attn_layers\.layers\.(\d+)\.(.*)", key)
        if layer:
            number, odd = divmod(int(layer[1]), 2)
            key = f"model.layers.{number}.{rename(f'{odd}.{layer[2]}', BERT)}"
        names = {"token_emb": "model.embed_tokens", "pos_emb.emb": "model.embed_positions"}
        theirs[rename(key, {**names, "norm": "model.layer_norm"})] = value
    return theirs

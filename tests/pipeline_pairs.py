"""Our pipelines beside diffusers', of the same small networks, prompts, generators and noise.

Official topology, width 32. Text goes through transformers' encoders on their side, from the ids of
our tokenizer. diffusers' pipelines have mistakes of their own (see `Theirs`), each mended by name,
so that what remains is compared exactly.
"""

import functools
from dataclasses import replace

import diffusers
import diffusers_keys as keys
import torch
from network_pairs import clip_settings, randomise
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from minisd.checkpoints.families import FAMILIES
from minisd.checkpoints.loading import Checkpoint
from minisd.models.autoencoder import AutoencoderKL
from minisd.models.clip import CLIPText
from minisd.pipeline import Pipeline
from minisd.text.tokenizer import Tokenizer, train_merges

diffusers.logging.set_verbosity_error()
MERGES = train_merges(["a red circle above a blue star", "a green ring", "blurred"], 40)
SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ENDS = {"set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading"}


def vocabulary():
    return len(Tokenizer(MERGES).vocabulary)


def text_config(config, width):
    projection = 16 if config.projection else None
    return replace(
        config, width=width, layers=3, heads=4, vocabulary=vocabulary(), projection=projection
    )


@functools.cache
def ours(family, prediction=None, seed=0):
    """A Pipeline of random networks: the family's at width 32."""
    parts = dict(FAMILIES[family].parts)
    texts = {name: parts[name] for name in ("text", "text_2") if name in parts}
    widths = dict(zip(texts, (24, 40) if len(texts) == 2 else (32,), strict=True))
    config = replace(parts["unet"].config, model_channels=32, context_dim=sum(widths.values()))
    config = replace(config, prediction=prediction or config.prediction)
    config = replace(config, head_channels=16) if config.head_channels else config
    numbers = {"sdxl": 6, "sdxl-refiner": 5}.get(family)
    config = replace(config, vector_dim=16 + 4 * numbers) if numbers else config
    modules = {
        "unet": parts["unet"].module(config),
        "vae": AutoencoderKL(replace(parts["vae"].config, channels=32)),
    }
    for name, part in texts.items():
        modules[name] = part.module(text_config(part.config, widths[name]))
    for module in modules.values():
        randomise(module)
        module.eval()
    pads = [None if part.module is CLIPText else 0 for part in texts.values()]
    tokenizers = [Tokenizer(MERGES, pad=pad) for pad in pads]
    return Pipeline(Checkpoint(family, **modules), tokenizers)


class Theirs:
    """diffusers' pipelines on a Pipeline's weights. call(way, prompt, ...) -> latents, pictures.

    scheduler: one of diffusers' in the place of the one that sampler names.

    Mended, for PLMS: (1) img2img and inpainting start in the middle of a list of times that names
    the second one twice, and lose the repetition; (2) inpainting blends the trial point of the
    first step, which is no step; (3) a v-model's outputs are averaged as they are.
    """

    ways = {
        False: {
            "txt2img": diffusers.StableDiffusionPipeline,
            "img2img": diffusers.StableDiffusionImg2ImgPipeline,
            "inpaint": diffusers.StableDiffusionInpaintPipeline,
            "depth2img": diffusers.StableDiffusionDepth2ImgPipeline,
            "upscale": diffusers.StableDiffusionUpscalePipeline,
        },
        True: {
            "txt2img": diffusers.StableDiffusionXLPipeline,
            "img2img": diffusers.StableDiffusionXLImg2ImgPipeline,
            "inpaint": diffusers.StableDiffusionXLInpaintPipeline,
        },
    }

    def __init__(self, pipe):
        self.pipe, self.xl = pipe, pipe.family.startswith("sdxl")
        parts, config = pipe.checkpoint, pipe.config
        vector = "add_embedding" if self.xl else "class_embedding"
        self.unet = keys.unet(config, text_time=4 if self.xl else None, sample_size=64)
        weights = keys.unet_weights(parts.unet.state_dict(), config, vector)
        self.unet.load_state_dict(weights, strict=True)
        self.vae = keys.autoencoder(pipe.first_stage)
        weights = keys.autoencoder_weights(parts.vae.state_dict(), pipe.first_stage)
        self.vae.load_state_dict(weights, strict=True)
        self.vae.register_to_config(scaling_factor=pipe.first_stage.scale_factor)
        self.texts = [self._text(parts.modules[name]) for name in pipe.texts]
        for module in (self.unet, self.vae, *self.texts):
            module.eval()

    @staticmethod
    def _text(text):
        if isinstance(text, CLIPText):
            model = CLIPTextModel(clip_settings(text.config))
            weights = {k.removeprefix("text_model."): v for k, v in text.state_dict().items()}
        else:
            model = CLIPTextModelWithProjection(clip_settings(text.config))
            weights = keys.openclip_weights(text.state_dict())
        model.load_state_dict(weights, strict=True)
        return model

    @torch.no_grad()
    def encode(self, prompt):
        """The context, and what the last encoder pools."""
        contexts = []
        for text, tokenizer in zip(self.texts, self.pipe.tokenizers, strict=True):
            out = text(tokenizer(prompt), output_hidden_states=True)
            if isinstance(text, CLIPTextModel) and not self.xl:
                contexts.append(out.last_hidden_state)  # SD 1: after the final norm
            elif self.xl:
                contexts.append(out.hidden_states[-2])
            else:  # SD 2: the last layer but one, and the final norm
                contexts.append(text.text_model.final_layer_norm(out.hidden_states[-2]))
        return torch.cat(contexts, dim=2), getattr(out, "text_embeds", None)

    def scheduler(self, sampler, prediction, **betas):
        betas = {**SD_BETAS, **betas, **ENDS, "prediction_type": prediction}
        if sampler == "ddim":
            return diffusers.DDIMScheduler(**betas, clip_sample=False)
        return diffusers.PNDMScheduler(**betas, skip_prk_steps=True)

    def __call__(self, way, prompt, negative="", *, mend=True, n=1, seed, sampler, **how):
        v, plms = self.pipe.config.prediction == "v", sampler == "plms"
        kind = "v_prediction" if v and not (plms and mend) else "epsilon"
        scheduler = how.pop("scheduler", None)
        scheduler = scheduler or self.scheduler(sampler, kind, **how.pop("betas", {}))
        pipeline, latents = self._pipeline(way, scheduler), []
        network = forward = self.unet.forward
        if plms and mend:
            self._record_trial(scheduler)
            pipeline.get_timesteps = functools.partial(mended_timesteps, scheduler)
            if v:
                network = functools.partial(eps_of_v, forward, scheduler.alphas_cumprod)

        def after(pipeline, i, t, given):
            if way == "inpaint" and plms and mend and i == 0:
                given = {"latents": scheduler.trial}
            latents.append(given["latents"])
            return given

        told = self._told(prompt, negative)
        if way != "upscale":  # which knows no such callback
            told["callback_on_step_end"] = after
        how = {"num_inference_steps": how.pop("steps"), "guidance_scale": how.pop("scale")} | how
        self.unet.forward = network
        try:
            made = pipeline(
                **told,
                **how,
                num_images_per_prompt=n,
                generator=[torch.Generator().manual_seed(seed + i) for i in range(n)],
                output_type="pt",
            )
        finally:
            self.unet.forward = forward
        return (latents or [None])[-1], made.images

    @staticmethod
    def _record_trial(scheduler):
        """Keep what the first of PLMS's two calls leads to, as scheduler.trial."""
        step = scheduler.step

        def recorded(*args, **kwargs):
            out = step(*args, **kwargs)
            scheduler.trial = getattr(scheduler, "trial", out[0])
            return out

        scheduler.step = recorded

    def _told(self, prompt, negative):
        context, pooled = self.encode([prompt])
        opposite, pooled_opposite = self.encode([negative])
        if self.pipe.family == "sdxl" and not negative:
            opposite, pooled_opposite = torch.zeros_like(context), torch.zeros_like(pooled)
        told = {"prompt_embeds": context, "negative_prompt_embeds": opposite}
        if self.xl:
            told["pooled_prompt_embeds"] = pooled
            told["negative_pooled_prompt_embeds"] = pooled_opposite
        return told

    def _pipeline(self, way, scheduler):
        shared = {"vae": self.vae, "unet": self.unet, "scheduler": scheduler}
        none = ["text_encoder", "tokenizer"]
        if self.xl:
            none += ["text_encoder_2", "tokenizer_2"]
            shared["add_watermarker"] = False
            if way != "txt2img":
                shared["requires_aesthetics_score"] = self.pipe.family == "sdxl-refiner"
        elif way == "depth2img":
            none += ["depth_estimator", "feature_extractor"]
        elif way == "upscale":
            low = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
            shared["low_res_scheduler"] = diffusers.DDPMScheduler(**low)
        else:
            none += ["safety_checker", "feature_extractor"]
            shared["requires_safety_checker"] = False
        pipeline = self.ways[self.xl][way](**shared, **dict.fromkeys(none))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def mended_timesteps(scheduler, num_inference_steps, strength, device, **_):
    """The last share of a PLMS list, its second time twice."""
    distinct = list(dict.fromkeys(scheduler.timesteps.tolist()))
    rest = distinct[len(distinct) - int(num_inference_steps * strength) :]
    return torch.tensor([*rest[:2], *rest[1:]]), len(rest)


def eps_of_v(forward, alphas, sample, t, *args, **kwargs):
    """A network that predicts v, as one that predicts ε, on diffusers' side."""
    v = forward(sample, t, *args, **kwargs)[0]
    ab = alphas[t]
    return (ab.sqrt() * v + (1 - ab).sqrt() * sample[:, : v.shape[1]],)

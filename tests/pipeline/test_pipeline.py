"""The pipelines: they equal diffusers' on the same networks, and do what they say.

Latents are compared to the largest of them, pictures in 0..1 as they are. diffusers draws its noise
from our seeds, so the order of the draws is compared too.
"""

import dataclasses
import weakref
from fractions import Fraction

import matplotlib.image
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_pairs import difference, randomise
from pipeline_pairs import MERGES, ours

from minisd import samplers
from minisd.checkpoints.families import FAMILIES, on_meta
from minisd.checkpoints.loading import Checkpoint, save
from minisd.checkpoints.tensorfile import CheckpointError
from minisd.models import configs as c
from minisd.models.autoencoder import AutoencoderKL
from minisd.models.bert import BERTText
from minisd.models.unet import UNet
from minisd.models.vq import VQModel
from minisd.noise import gaussian
from minisd.pipeline import Pipeline, pictures
from minisd.pipeline.conditioning import (
    Conditioning,
    Frame,
    depth_channel,
    micro_vector,
    paint_mask,
    repeated,
    shrink,
    tokenizer_for,
    tokenizer_metadata,
)
from minisd.pipeline.settings import Settings, last_times, own_noise, schedule, times
from minisd.prediction import Prediction
from minisd.text.tokenizer import Tokenizer
from minisd.tiny.weights import TINY as SHIPPED

PROMPT, NEGATIVE = "a red circle above a blue star", "blurred"
FAMILIES_COMPARED = [("sd1", None), ("sd2", "eps"), ("sd2", "v"), ("sdxl", None)]
NEAR, NEAR_PICTURE = 5e-5, 1e-4


def picture(h=64, w=64, seed=9):
    return torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def left(h=64, w=64):
    """A mask of the middle rows, to the left."""
    mask = torch.zeros(1, 1, h, w)
    mask[..., h // 4 : 3 * h // 4, : 5 * w // 8] = 1
    return mask


def compare(run, theirs):
    latents, pixels = theirs
    if latents is not None:
        assert (run.latents() - latents).abs().max() <= NEAR * latents.abs().max()
    mine = (run.pictures() + 1) / 2
    assert mine.shape == pixels.shape and pixels.std() > 0.1
    assert (mine - pixels).abs().max() <= NEAR_PICTURE


# ---- diffusers ----------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddim", "plms"])
@pytest.mark.parametrize("family", FAMILIES_COMPARED, ids=str)
def test_pictures_are_diffusers(family, sampler, theirs):
    """txt2img, img2img and inpainting, of 5 and of 10 steps. A higher picture than it is wide, so
    that SDXL's numbers cannot be swapped."""
    mine, other = ours(*family), theirs(*family)
    h, w = (64, 32) if family[0] == "sdxl" else (64, 64)
    start, mask = picture(h, w), left(h, w)
    image = {"image": (start + 1) / 2, "mask_image": mask, "height": h, "width": w}
    for steps, strength in ((5, 0.6), (10, 0.3)):
        how = {"sampler": sampler, "scale": 5.0, "steps": steps, "seed": 3}
        told = how | {"negative": NEGATIVE, "grid": "ldm"}
        run = mine.txt2img(PROMPT, (h, w), **told)
        compare(run, other("txt2img", PROMPT, NEGATIVE, **how, height=h, width=w))
        run = mine.img2img(start, PROMPT, strength, **told)
        only = {"image": image["image"], "strength": strength}
        compare(run, other("img2img", PROMPT, NEGATIVE, **how, **only))
        run = mine.inpaint(start, mask, PROMPT, strength, **told)
        compare(run, other("inpaint", PROMPT, NEGATIVE, **how, **image, strength=strength))


def test_plms_is_diffusers_without_any_mending(theirs):
    how = {"sampler": "plms", "scale": 5.0, "steps": 5, "seed": 3}
    run = ours("sd1").txt2img(PROMPT, 64, **how)
    compare(run, theirs("sd1")("txt2img", PROMPT, **how, mend=False, height=64, width=64))


def test_noise_on_the_way_and_several_pictures(theirs):
    how = {"sampler": "ddim", "scale": 5.0, "steps": 4, "seed": 3, "n": 2, "eta": 1.0}
    run = ours("sd1").txt2img(PROMPT, (64, 128), **how)
    compare(run, theirs("sd1")("txt2img", PROMPT, **how, height=64, width=128))


HOW = {"sampler": "ddim", "scale": 5.0, "steps": 5, "seed": 3}


@pytest.mark.parametrize("strength", [1.0, 0.8])
def test_models_of_nine_channels(strength, theirs):
    image = {"image": (picture() + 1) / 2, "mask_image": left(), "height": 64, "width": 64}
    run = ours("sd1-inpaint").inpaint(picture(), left()[0, 0], PROMPT, strength, **HOW)
    compare(run, theirs("sd1-inpaint")("inpaint", PROMPT, **HOW, **image, strength=strength))


def test_depth(theirs):
    depth = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(8))
    image = {"image": (picture() + 1) / 2, "depth_map": depth}
    run = ours("sd2-depth").depth2img(picture(), 30 * depth[0] + 7, PROMPT, 0.8, **HOW)
    compare(run, theirs("sd2-depth")("depth2img", PROMPT, **HOW, **image, strength=0.8))


def test_upscaler(theirs):
    small, betas = picture(16, 24), {"beta_start": 1e-4, "beta_end": 0.02}
    run = ours("upscaler").upscale(small, PROMPT, level=35, **HOW)
    image = {"image": (small + 1) / 2, "noise_level": 35, "betas": betas}
    compare(run, theirs("upscaler")("upscale", PROMPT, **HOW, **image))


def test_sdxl_is_told_its_frame(theirs):
    """Empty as it stands, the negative prompt is zeros; the refiner is told scores."""
    frame = Frame(original=(480, 640), crop=(5, 70), target=(96, 64), score=7.5, negative_score=1)
    sizes = {"original_size": (480, 640), "crops_coords_top_left": (5, 70)}
    run = ours("sdxl").txt2img(PROMPT, (64, 32), **HOW, grid="ldm", frame=frame)
    size = {"height": 64, "width": 32, "target_size": (96, 64)}
    negative = {"negative_" + key: value for key, value in {**sizes, **size}.items()}
    negative = {key: value for key, value in negative.items() if key.endswith(("size", "left"))}
    compare(run, theirs("sdxl")("txt2img", PROMPT, **HOW, **size, **sizes, **negative))
    run = ours("sdxl-refiner").img2img(picture(), PROMPT, 0.6, **HOW, grid="ldm", frame=frame)
    scores = {"aesthetic_score": 7.5, "negative_aesthetic_score": 1.0}
    negative = {"negative_" + key: value for key, value in sizes.items()}
    only = {"image": (picture() + 1) / 2, "strength": 0.6, **sizes, **negative, **scores}
    compare(run, theirs("sdxl-refiner")("img2img", PROMPT, **HOW, **only))


def test_plms_of_a_v_model_leads_where_ddim_does(theirs):
    """It turns v into ε before it averages; diffusers averages v, at three times the error."""
    mine, how = ours("sd2", "v"), {"scale": 1.0, "seed": 3}

    def end(sampler, steps):
        return mine.txt2img(PROMPT, 64, sampler=sampler, steps=steps, **how).latents()

    coarse, fine = end("plms", 10), end("plms", 50)
    apart = [(coarse - end("ddim", 10)).abs().max(), (fine - end("ddim", 50)).abs().max()]
    assert apart[1] < apart[0] / 3 and apart[1] < 0.12  # DDIM's own error falls with the steps
    given = {"sampler": "plms", "steps": 10, **how, "height": 64, "width": 64}
    averaged, _ = theirs("sd2", "v")("txt2img", PROMPT, **given, mend=False)
    assert (averaged - fine).abs().max() > 2 * (coarse - fine).abs().max()


# ---- a model of one's own -----------------------------------------------------------------


def tiny(vq=False, **options):
    """v, zero terminal SNR, another tokenizer, a first stage of f = 4."""
    unet = UNet(
        c.UNetConfig(
            model_channels=16,
            channel_mult=(1, 2),
            attention_factors=(2,),
            heads=2,
            transformer_depth=(1, 1),
            self_attention=(True, True),
            context_dim=32,
            groups=8,
            prediction="v",
            zero_terminal_snr=True,
        )
    )
    first = c.AutoencoderConfig(channels=8, channel_mult=(1, 1, 2), groups=4, scale_factor=0.8)
    if vq:
        vae = VQModel(dataclasses.replace(first, codes=16))
    else:
        vae = AutoencoderKL(first)
    tokenizer = Tokenizer(MERGES, length=16)
    size = len(tokenizer.vocabulary)
    text = BERTText(c.TextConfig(width=32, layers=1, heads=2, vocabulary=size, length=16))
    for module in (unet, vae, text):
        randomise(module)
    options = {"tokenizers": [tokenizer], "words": PROMPT.split()} | options
    return Pipeline(Checkpoint("tiny", unet, vae, text), **options)


TINY = tiny()


@pytest.mark.parametrize("sampler", ["plms", "ddim", "s_pndm", "pndm", "ddpm"])
def test_each_sampler_by_hand(sampler):
    """The sampler itself, on the networks put together here."""
    pipe, ab = TINY, TINY.ab
    unet, vae, text, _ = pipe.checkpoint[1:]
    run = pipe.txt2img(PROMPT, sampler=sampler, steps=10, scale=3.0, seed=5, negative=NEGATIVE)

    @torch.no_grad()
    def eps_model(x, t):
        out = []
        for prompt in (PROMPT, NEGATIVE):
            context = text(pipe.tokenizers[0]([prompt])).context
            out.append(unet(x, torch.tensor([t - 1]), context))
        v = out[1] + 3 * (out[0] - out[1])
        eps = ab[t].sqrt() * v + (1 - ab[t]).sqrt() * x
        return Prediction(eps, ab[t].sqrt() * x - (1 - ab[t]).sqrt() * v)

    noise = gaussian(5)
    x = noise(torch.empty(1, 4, 16, 16))
    grid = [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    more = {"noise": noise} if sampler == "ddpm" else {}
    steps = list(getattr(samplers, sampler)(eps_model, x, grid, ab, **more))
    mine = list(run)
    assert run.times == grid and len(run) == len(mine) == 10
    for a, b in zip(mine, steps, strict=True):
        assert a.t == b.t and (a.x - b.x).abs().max() <= 1e-4 and (a.x0 - b.x0).abs().max() <= 1e-3
    with torch.no_grad():
        by_hand = vae.decode(steps[-1].x / 0.8).clamp(-1, 1)
    assert (run.pictures() - by_hand).abs().max() <= 1e-4
    assert run.pictures().shape == (1, 3, 64, 64)


def test_a_seed_is_a_picture():
    """In a batch, of several prompts, and alone; half way through as well."""
    how = {"steps": 6, "sampler": "ddim", "eta": 1.0}
    both = TINY.txt2img([PROMPT, NEGATIVE], seed=7, n=2, **how).latents()
    for i, prompt in enumerate([PROMPT, PROMPT, NEGATIVE, NEGATIVE]):
        alone = TINY.txt2img(prompt, seed=7 + i, **how)
        next(iter(alone))
        assert (alone.latents() - both[i]).abs().max() <= 1e-4
    assert (both[0] - both[1]).abs().max() > 0.1
    start = picture()
    both = TINY.img2img(start, PROMPT, seed=7, n=2, **how).latents()
    assert (TINY.img2img(start, PROMPT, seed=8, **how).latents() - both[1]).abs().max() <= 1e-4


def test_scale_one_calls_the_network_once_and_half_as_wide():
    seen = []
    hook = TINY.checkpoint.unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        TINY.txt2img(PROMPT, steps=3, sampler="ddim", scale=1).latents()
        TINY.txt2img(PROMPT, steps=3, sampler="plms", scale=2, n=2).latents()
    finally:
        hook.remove()
    # PLMS takes one step of DDIM where x_T is noise alone; then two calls for the second step
    assert seen == [1] * 3 + [4] * 4


def test_what_is_kept_is_kept():
    """Mask blending: where the mask is 0, the latents are the picture's own at the end, and at
    every step they are it noised; where it is 1 they are not. A mask of 1 everywhere is txt2img."""
    start, how = picture(), {"steps": 6, "sample": False, "scale": 2.0}
    mask = torch.zeros(64, 64)
    mask[:, 24:] = 1
    end, z = TINY.inpaint(start, mask, PROMPT, **how).latents(), TINY.to_latent(start)
    assert difference(end[..., :6], z[..., :6]) < 1e-5 and (end - z)[..., 6:].abs().max() > 0.1
    end = TINY.inpaint(start, torch.ones(64, 64), PROMPT, **how).latents()
    assert difference(end, TINY.txt2img(PROMPT, 64, steps=6, scale=2.0).latents()) < 1e-4


def test_inversion_comes_back():
    """Exactly, where each step's fixed point is sought; nearly, where it is not."""
    pipe, start, how = TINY, picture(), {"steps": 50, "scale": 1.0, "strength": 0.7}
    z, run = pipe.to_latent(start), pipe.invert(start, PROMPT, **how)
    assert run.times == [*range(0, 720, 20)][: len(run) + 1] and len(run) == 35
    plain, refined = run.latents(), pipe.invert(start, PROMPT, refine=8, **how).latents()
    back = [pipe.denoise(x, PROMPT, sampler="ddim", **how).latents() for x in (plain, refined)]
    assert (back[1] - z).abs().max() < 1e-4 < 0.1 < (back[0] - z).abs().max() < 0.5


def test_latents_led_on():
    """A run that was stopped goes on from where it was; from x_T it is txt2img."""
    how = {"steps": 10, "sampler": "ddim", "scale": 2.0}
    run = TINY.txt2img(PROMPT, **how)
    middle = next(step for step in run if step.t == 300).x
    assert difference(TINY.denoise(middle, PROMPT, 0.3, **how).latents(), run.latents()) < 1e-4
    again = TINY.txt2img(PROMPT, **how)
    watched = [step.x for step, _ in zip(again, range(10), strict=False)]  # and not to its end
    assert difference(again.latents(), watched[-1]) < 1e-4
    assert difference(run.latents(), watched[-1]) < 1e-4
    noise = own_noise(0, 1)(torch.empty(1, 4, 16, 16))
    assert difference(TINY.denoise(noise, PROMPT, **how).latents(), run.latents()) < 1e-4


@pytest.mark.parametrize("vq", [False, True], ids=["kl", "vq"])
def test_latents_of_a_picture(vq):
    """One picture at a time as all at once: the posterior's mean, and its sample for each seed."""
    pipe, two = tiny(vq), torch.cat([picture(), picture(seed=2)])
    vae = pipe.checkpoint.vae
    with torch.no_grad():
        said = vae.encode(two)
    mean = said if vq else said.mean
    assert (pipe.to_latent(two) - 0.8 * mean).abs().max() <= 1e-5
    noise = own_noise(3, 4)(torch.empty(4, *mean.shape[1:]))
    wanted = 0.8 * (repeated(said, 4) if vq else repeated(mean, 4))
    wanted = wanted + (0 if vq else 0.8 * repeated((said.logvar / 2).exp(), 4) * noise)
    assert (pipe.to_latent(two, own_noise(3, 4), count=4) - wanted).abs().max() <= 1e-5
    with torch.no_grad():
        whole = vae.decode(said if vq else mean).clamp(-1, 1)
    assert (pipe.decode(0.8 * mean) - whole).abs().max() <= 1e-4


def test_from_a_file(tmp_path):
    """A model of one's own with its tokenizer and words, and one of a published family."""
    path = tmp_path / "tiny.safetensors"
    save(path, TINY.checkpoint, tokenizer_metadata(TINY.tokenizers[0], TINY.words))
    loaded = Pipeline.load(path)
    assert loaded.words == TINY.words and loaded.texts == ["text"]
    assert (loaded.tokenizers[0].ignored, TINY.tokenizers[0].ignored) == ('!"(),.:;?', "")
    for how in ({"steps": 4}, {"steps": 4, "negative": "a ring"}):
        mine = TINY.txt2img(PROMPT, **how).pictures()
        assert difference(loaded.txt2img(PROMPT, **how).pictures(), mine) < 1e-4
    half = Checkpoint(*(m if isinstance(m, str | None) else m.half() for m in tiny().checkpoint))
    save(path, half, tokenizer_metadata(TINY.tokenizers[0]))
    loaded = Pipeline.load(path, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.checkpoint.unet.parameters()} == {torch.float16}
    with loaded.part("unet") as unet:
        assert {p.dtype for p in unet.parameters()} == {torch.bfloat16}
    save(path, TINY.checkpoint, {"minisd.tokenizer": "[]"})
    with pytest.raises(CheckpointError, match="tokenizer cannot be read"):
        Pipeline.load(path)
    save(path, TINY.checkpoint)
    with pytest.raises(ValueError, match="no tokenizer for a BERTText"):
        Pipeline.load(path).txt2img(PROMPT)


def test_other_dtypes():
    """float64 is float32 but for rounding; bfloat16 is near; the sampler stays in float32."""
    how = {"steps": 6, "sampler": "ddim", "scale": 2.0}
    pipe = tiny()
    exact = tiny(dtype=torch.float64).txt2img(PROMPT, **how).latents()
    assert exact.dtype == torch.float64
    assert (pipe.txt2img(PROMPT, **how).latents() - exact).abs().max() <= 1e-4
    short = tiny(dtype=torch.bfloat16).txt2img(PROMPT, **how)
    assert short.latents().dtype == torch.float32 and short.pictures().dtype == torch.float32
    assert 1e-4 < (short.latents() - exact).abs().max() < 0.5
    half = tiny(dtype=torch.float16)
    with half.part("vae") as vae, half.part("unet") as unet:
        kinds = [next(module.parameters()).dtype for module in (vae, unet)]
    assert kinds == [torch.float32, torch.float16]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("family", [("sd1", None), ("sdxl", None)], ids=str)
def test_a_seed_is_the_same_picture_on_a_gpu(family):
    here, how = ours(*family), {"scale": 5.0, "steps": 10, "seed": 3}
    there = Pipeline(here.checkpoint, here.tokenizers, device="cuda")
    a, b = (pipe.txt2img(PROMPT, 64, **how).pictures() for pipe in (here, there))
    assert b.device.type == "cpu" and (a - b).abs().max() <= 1e-2


def test_one_network_at_a_time():
    """With release each copy is gone before the next is made; the picture is the same."""
    alive, counts = [], []

    class Watched(Pipeline):
        def _place(self, name):
            counts.append((name, sum(ref() is not None for ref in alive)))
            module = super()._place(name)
            alive.append(weakref.ref(module))
            return module

    kept, released = (
        Watched(TINY.checkpoint, TINY.tokenizers, dtype=torch.bfloat16, release=release)
        for release in (False, True)
    )
    first = released.img2img(picture(), PROMPT, steps=4).pictures()
    assert counts == [(name, 0) for name in ("text", "text", "vae", "unet", "vae")]
    counts.clear(), alive.clear()
    again = kept.img2img(picture(), PROMPT, steps=4).pictures()
    assert (again - first).abs().mean() < 0.1  # bfloat16 rounds to 8 bits
    assert counts == [("text", 0), ("vae", 1), ("unet", 2)]


def test_a_model_without_prompts():
    """Unconditional, and one whose context the caller makes."""
    plain = c.UNetConfig(model_channels=32, channel_mult=(1, 2), heads=2, context_dim=None)
    unet, vae = UNet(plain), TINY.checkpoint.vae
    randomise(unet)
    pipe = Pipeline(Checkpoint("ldm-ffhq256", unet, vae))
    ab = schedule(plain, "ldm-ffhq256")
    eps_model = lambda x, t: unet(x, torch.tensor([t - 1]))  # noqa: E731
    with torch.no_grad():
        steps = samplers.ddim(
            eps_model, gaussian(3)(torch.empty(1, 4, 8, 8)), [752, 502, 252, 2, 1], ab
        )
        wanted = samplers.last(steps).x
    mine = pipe.txt2img("", 32, steps=4, sampler="ddim", seed=3).latents()
    assert (mine - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    with pytest.raises(ValueError, match="scale must be 1"):
        pipe.txt2img("", 32, scale=2.0)
    with pytest.raises(ValueError, match="has no text encoder here; leave prompts out"):
        pipe.txt2img("a face", 32)
    told = Pipeline(Checkpoint("own", TINY.checkpoint.unet, vae))
    with pytest.raises(ValueError, match="pass Conditioning"):
        told.txt2img(PROMPT)
    cond, uncond = TINY.encode(PROMPT), TINY.encode("")
    run = told.txt2img(cond, steps=3, negative=uncond)  # with DDIM, as it is not the tiny model
    plain = TINY.txt2img(PROMPT, steps=3, scale=7.5, sampler="ddim").latents()
    assert difference(run.latents(), plain) < 1e-4
    shipped = TINY.txt2img(PROMPT, steps=3)  # a model called tiny has a usual scale of its own
    plain = TINY.txt2img(PROMPT, steps=3, scale=3.0).latents()
    assert difference(shipped.latents(), plain) < 1e-4


# ---- conditions ---------------------------------------------------------------------------


def test_schedules_and_grids():
    """ᾱ_T as read off the original code, and the grids."""
    known = {"sd1": 0.00466010, "ldm-ffhq256": 1.42304e-4, "upscaler": 7.33412e-4}
    for name, last in known.items():
        assert abs(schedule(FAMILIES[name].parts["unet"].config, name)[-1] - last) < 1e-8
    assert schedule(TINY.config)[-1] == 0 and TINY.ab[0] == 1
    assert times(c.SD1, 10) == [902, 802, 702, 602, 502, 402, 302, 202, 102, 2, 1]
    assert times(TINY.config, 4) == [1000, 750, 500, 250, 0]
    grid = times(c.SD1, 50)
    # img2img of strength 0.8 is noised to where it is denoised from: 782, and not 802
    assert last_times(grid, 0.8)[0] == 782 and len(last_times(grid, 0.8)) == 41
    assert last_times(grid, 1.0) == grid
    for steps in range(1, 201):
        grid = [*range(steps, -1, -1)]
        for hundredth in range(100 // steps + 1, 101):
            count = steps * Fraction(hundredth, 100) // 1
            assert len(last_times(grid, hundredth / 100)) - 1 == count if count else True
    pipe = ours("sd1")
    z, seen = pipe.to_latent(picture()), []
    hook = pipe.checkpoint.unet.register_forward_pre_hook(lambda _, args: seen.append(args))
    try:
        run = pipe.img2img(picture(), "", 0.8, steps=10, sample=False, scale=1, sampler="ddim")
        next(iter(run))
    finally:
        hook.remove()
    noise = own_noise(0, 1)(z)
    ab = pipe.ab[run.times[0]]
    assert seen[0][1].item() + 1 == run.times[0] == 702
    assert (seen[0][0] - (ab.sqrt() * z + (1 - ab).sqrt() * noise)).abs().max() <= 1e-5


def test_sdxls_vector_is_the_official_one():
    """2816 and 2560 wide, (h, w) in that order, cosines of a number before its sines."""
    frame = Frame(original=(480, 640), crop=(1, 2))
    numbers = frame.numbers((1024, 768), refiner=False, negative=True)
    assert numbers == [480, 640, 1, 2, 1024, 768]
    vector = micro_vector(torch.ones(2, 1280), numbers, 2816)
    assert vector.shape == (2, 2816) and (vector[:, :1280] == 1).all()
    angle = 640 * 10_000.0 ** (-torch.arange(128) / 128)
    assert (vector[1, 1536:1664] - angle.cos()).abs().max() < 1e-4
    assert (vector[1, 1664:1792] - angle.sin()).abs().max() < 1e-4
    numbers = frame.numbers((1024, 768), refiner=True, negative=True)
    assert numbers == [480, 640, 1, 2, 2.5]
    assert micro_vector(torch.ones(1, 1280), numbers, 2560).shape == (1, 2560)
    with pytest.raises(ValueError, match="does not hold"):
        micro_vector(torch.ones(1, 1280), numbers, 2816)


def test_published_encoders_get_their_tokenizer():
    pads = {"sd1": [49407], "sd2": [0], "sdxl": [49407, 0], "sdxl-refiner": [0]}
    for name, wanted in pads.items():
        parts = FAMILIES[name].parts
        texts = [tokenizer_for(on_meta(parts[key])) for key in ("text", "text_2") if key in parts]
        assert [tokenizer.pad for tokenizer in texts] == wanted
        assert texts[0](["a cat"])[0, :4].tolist() == [49406, 320, 2368, 49407]
    for name in ("ldm-txt2img", "ldm-text2img256"):
        bert = tokenizer_for(on_meta(FAMILIES[name].parts["text"]))
        assert bert(["a cat"])[0, :5].tolist() == [101, 1037, 4937, 102, 0]


def test_warnings():
    assert TINY.warnings(PROMPT) == []
    said = TINY.warnings("A red circle, then " + "blue star " * 10)
    lost = "star" + " blue star" * 6
    assert said[0] == f"the prompt is too long, and this is not read: {lost!r}"
    assert said[1] == "the model was never told these words: ,, then"
    assert ours("sd1").warnings("anything goes") == []


def test_signs_between_words_are_not_read():
    pipe = Pipeline.load(SHIPPED)
    (read,) = pipe.tokenizers
    assert torch.equal(read(['A red circle, on (white)."!']), read(["a red circle on white"]))
    assert pipe.warnings("A red circle, on white.") == []
    assert pipe.warnings("a red; pale circle") == ["the model was never told these words: pale"]


def test_masks_and_depths():
    mask = torch.rand(8, 8, generator=torch.Generator().manual_seed(1))
    hard = paint_mask(mask, (8, 8))
    assert hard.shape == (1, 1, 8, 8) and torch.equal(hard[0, 0], (mask >= 0.5).float())
    assert torch.equal(shrink(hard, 4)[0, 0], hard[0, 0, [0, 4]][:, [0, 4]])
    depth = depth_channel(5 + 3 * mask, (8, 8))
    assert depth.min() == -1 and depth.max() == 1
    assert (
        depth[0, 0] - (2 * (mask - mask.min()) / (mask.max() - mask.min()) - 1)
    ).abs().max() < 1e-5


# ---- files and tiles ----------------------------------------------------------------------


def test_a_png_comes_back(tmp_path):
    path, start = tmp_path / "a.png", picture(20, 30)
    said = {"prompt": 'a "red" circle, ☃', "seed": 3, "negative": ""}
    pictures.save_png(path, start, said)
    assert pictures.read_settings(path) == {key: str(value) for key, value in said.items()}
    read = matplotlib.image.imread(path)  # Pillow's decoder
    assert read.shape == (20, 30, 3)
    levels = np.rint((start[0].permute(1, 2, 0).numpy() + 1) * 127.5)
    assert (np.rint(read * 255) == levels).all()
    opened = pictures.open_picture(path)
    assert opened.shape == start.shape and (opened - start).abs().max() <= 1 / 255 + 1e-6
    pictures.save_png(path, opened, said)
    assert torch.equal(pictures.open_picture(path), opened)
    from PIL import Image

    assert Image.open(path).text == {key: str(value) for key, value in said.items()}


@pytest.mark.parametrize("kind", ["RGBA", "L", "LA", "P", "RGB jpg"])
def test_other_kinds_of_files(kind, tmp_path):
    from PIL import Image

    path = tmp_path / ("a.jpg" if "jpg" in kind else "a.png")
    plain = Image.new("RGBA", (12, 8), (200, 200, 200, 128 if kind in ("RGBA", "LA") else 255))
    plain.convert(kind.split()[0]).save(path)
    opened = pictures.open_picture(path, 8)
    level = 200 * 128 / 255 + 127 if kind in ("RGBA", "LA") else 200
    assert opened.shape == (1, 3, 8, 8) and (opened - (level / 127.5 - 1)).abs().max() < 0.02


def test_inks_and_deep_greys_and_a_camera_held_on_its_side(tmp_path):
    from PIL import Image

    path = tmp_path / "a.jpg"
    Image.new("CMYK", (12, 8), (0, 0, 0, 55)).save(path)
    assert (pictures.open_picture(path) - (200 / 127.5 - 1)).abs().max() < 0.02
    Image.new("I;16", (12, 8), 51400).save(tmp_path / "a.png")
    assert (pictures.open_picture(tmp_path / "a.png") - (200 / 127.5 - 1)).abs().max() < 0.001
    photo, said = Image.new("RGB", (12, 8)), Image.Exif()
    photo.paste((255, 255, 255), (0, 0, 6, 8))  # left, which is up once it is turned
    said[0x0112] = 6  # held with its right side down
    photo.save(path, exif=said)
    opened = pictures.open_picture(path)
    assert opened.shape == (1, 3, 12, 8)
    assert opened[..., :5, :].min() > 0.9 and opened[..., 7:, :].max() < -0.9


def test_a_picture_is_cropped_around_its_middle():
    wide = torch.linspace(-1, 1, 40).expand(1, 3, 20, 40)
    assert torch.equal(pictures.fit(wide, 20), wide[..., 10:30])
    small = pictures.fit(wide, (10, 20))
    assert (
        small[..., 1:-1] - wide.reshape(1, 3, 10, 2, 20, 2).mean((3, 5))[..., 1:-1]
    ).abs().max() < 0.01


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    pictures.save_png(path, picture(8, 8))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="finite"):
        pictures.save_png(path, picture(8, 8) / 0)
    with pytest.raises(ValueError, match="zero byte"):
        pictures.save_png(path, picture(8, 8), {"prompt": "a\0b"})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures.os, "replace", full)
    with pytest.raises(ValueError, match="No space left"):
        pictures.save_png(path, picture(8, 8, seed=1))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.png"]
    for wrong, says in ((tmp_path / "a.gif", "saved as .png"), (tmp_path / "no/a.png", "no such")):
        with pytest.raises(ValueError, match=says):
            pictures.save_png(wrong, picture(8, 8))
    (tmp_path / "b.png").write_bytes(b"nothing")
    for name in ("b.png", "c.png"):
        with pytest.raises(ValueError, match="b.png cannot be read|no such picture"):
            pictures.open_picture(tmp_path / name)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(4, 12), st.integers(0, 99))
def test_tiles_join_without_a_seam(h, w, tile, seed):
    """A decoder that sees one latent at a time cannot tell tiles from the whole."""
    z = torch.randn(2, 3, h, w, generator=torch.Generator().manual_seed(seed))
    sizes = []

    def decode(z):
        sizes.append(max(z.shape[2:]))
        return z.repeat_interleave(4, 2).repeat_interleave(4, 3)

    joined = pictures.in_tiles(decode, z, tile, 4)
    assert (joined - decode(z)).abs().max() < 1e-5
    assert max(sizes[:-1]) <= tile


def test_a_pipeline_decodes_in_tiles():
    pipe, z = tiny(tile=8), torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    whole, tiled = tiny().decode(z), pipe.decode(z)
    by_hand = [pictures.in_tiles(pipe.checkpoint.vae.decode, one / 0.8, 8, 4) for one in z[:, None]]
    assert (torch.cat(by_hand).clamp(-1, 1) - tiled).abs().max() < 1e-5
    assert (tiny(tile=16).decode(z) - whole).abs().max() < 1e-5 < (tiled - whole).abs().max()


# ---- mistakes -----------------------------------------------------------------------------

SMALL = picture(32, 32)
MISTAKES = [
    (lambda: Settings(steps=0), "steps must be a whole number of at least 1"),
    (lambda: Settings(steps=1001), "steps must be at most T=1000"),
    (lambda: Settings(steps=2.5), "steps must be a whole number"),
    (lambda: Settings(scale=-1.0), "guidance scale must be at least 0, got -1"),
    (lambda: Settings(scale=float("nan")), "guidance scale must be at least 0, got nan"),
    (lambda: Settings(rescale=2.0), "rescale must be from 0 to 1"),
    (lambda: Settings(sampler="rk4"), "there is no sampler 'rk4': there are ddim, plms"),
    (lambda: Settings(eta=0.5, sampler="plms"), "plms takes no eta; those that do are ddim"),
    (lambda: Settings(eta=1.5, sampler="ddim"), "eta must be from 0 to 1"),
    (lambda: Settings(n=0), "n must be a whole number of at least 1"),
    (lambda: Settings(seed=-1), "seed must be a whole number from 0"),
    (lambda: Settings(seed=2**63), "seed must be a whole number from 0"),
    (lambda: Settings(seed=2**63 - 1, n=2), "9223372036854775808 for the last of 2"),
    (lambda: Settings(steps=64.0), "steps must be a whole number, got 64.0"),
    (lambda: Settings(seed="64"), "seed must be a whole number, got '64'"),
    (lambda: Settings(n=True), "n must be a whole number, got True"),
    (lambda: Settings(scale="3"), "scale must be a number, got '3'"),
    (lambda: Settings(eta=True), "eta must be a number, got True"),
    (lambda: Settings(control_from=[1]), r"control_from must be a number, got \[1\]"),
    (lambda: Settings(sampler=3), "sampler must be a name, got 3"),
    (lambda: Settings(grid=["karras"]), r"grid must be a name, got \['karras'\]"),
    (lambda: TINY.img2img("none.png", PROMPT), "no such picture: none.png"),
    (lambda: Settings(n=np.bool_(True)), "n must be a whole number, got"),
    (lambda: TINY.txt2img(PROMPT, 60), "multiples of 8, not 60 x 60"),
    (lambda: TINY.txt2img(PROMPT, 0), "multiples of 8, not 0 x 0"),
    (lambda: TINY.txt2img(PROMPT, (64, 64, 64)), "multiples of 8, not 64 x 64 x 64"),
    (lambda: ours("sd1").txt2img(PROMPT, 500), "sd1 takes heights and widths in multiples of 64"),
    (lambda: TINY.txt2img([]), "no prompt"),
    (lambda: TINY.txt2img(3), "a prompt is a string or a list of strings, got 3"),
    (lambda: TINY.txt2img(PROMPT, negative=["a", "b"]), "2 prompts, .* do not make 1"),
    (lambda: TINY.txt2img([PROMPT, None]), "a prompt is a string or a list of strings"),
    (lambda: TINY.denoise(torch.zeros(1, 3, 8, 8), PROMPT), r"latents must be \(b, 4, h, w\)"),
    (lambda: TINY.denoise(torch.zeros(1, 4, 8, 9), PROMPT), "multiples of 8, not 32 x 36"),
    (lambda: TINY.denoise(torch.zeros(3, 4, 8, 8), PROMPT), "3 prompts, .* do not make 1"),
    (lambda: TINY.denoise(torch.full((1, 4, 8, 8), torch.nan), PROMPT).latents(), "be finite"),
    (lambda: TINY.img2img(SMALL, PROMPT, 1.5), "strength must be from 0 to 1, got 1.5"),
    (lambda: TINY.img2img(SMALL, PROMPT, float("nan")), "strength must be from 0 to 1"),
    (lambda: TINY.img2img(SMALL, PROMPT, 0.01), "strength=0.01 of 30 steps leaves none"),
    (lambda: TINY.img2img(SMALL[0], PROMPT), r"a picture must be \(b, 3, h, w\)"),
    (lambda: TINY.img2img(SMALL[..., :30], PROMPT), "multiples of 8, not 32 x 30"),
    (lambda: TINY.img2img(255 * SMALL, PROMPT), "from -1 to 1"),
    (lambda: TINY.img2img(SMALL.repeat(2, 1, 1, 1), PROMPT), "do not make 1 pictures"),
    (lambda: TINY.inpaint(SMALL, torch.zeros(8, 8), PROMPT), r"a mask must be .* \(32, 32\)"),
    (lambda: TINY.inpaint(SMALL, torch.full((32, 32), 2.0), PROMPT), "a mask holds 0"),
    (lambda: TINY.depth2img(SMALL, torch.rand(8, 8), PROMPT), "cannot depth2img: .* takes 0"),
    (lambda: TINY.upscale(SMALL, PROMPT), "cannot upscale: .* 3 are given; use txt2img"),
    (lambda: ours("upscaler").upscale(SMALL, PROMPT, level=1000), "level must be"),
    (lambda: ours("sd1-inpaint").txt2img(PROMPT, 64), "takes 5 channels .* use inpaint"),
    (lambda: ours("sd2-depth").depth2img(picture(), torch.ones(8, 8), ""), "more than one depth"),
    (lambda: tiny(tile=2), "a tile must be at least 4"),
    (lambda: tiny(dtype=torch.int8), "dtype must be one of"),
    (lambda: tiny(device="toaster"), "cannot use toaster"),
    (lambda: tiny(tokenizers=[]), "1 text encoders need as many tokenizers"),
    (lambda: Pipeline(Checkpoint("sd1")), "needs a unet and a vae"),
    (lambda: Pipeline.load("/nowhere/a.safetensors"), "nowhere"),
]


@pytest.mark.parametrize("call, says", MISTAKES, ids=[says[:40] for _, says in MISTAKES])
def test_a_mistake_is_one_sentence(call, says):
    with pytest.raises(ValueError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_vector_that_is_not_given():
    config = dataclasses.replace(TINY.config, vector_dim=8)
    unet = UNet(config)
    checkpoint = TINY.checkpoint._replace(family="unclip-h", unet=unet)
    pipe = Pipeline(checkpoint, TINY.tokenizers)
    with pytest.raises(ValueError, match="told a vector of 8 besides"):
        pipe.txt2img(PROMPT, 64)
    cond = pipe.encode(PROMPT)._replace(y=torch.zeros(1, 8))
    run = pipe.txt2img(cond, 64, negative=Conditioning(0 * cond.context, cond.y), steps=2)
    assert run.latents().isfinite().all()


def test_numbers_that_overflow_are_said():
    pipe = tiny()
    with pytest.raises(ValueError, match="holds nan or inf"):
        pipe.decode(torch.full((1, 4, 8, 8), torch.inf))

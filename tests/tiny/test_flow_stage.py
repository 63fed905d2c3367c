"""The tiny model trained on as a flow: its loss by hand, resumed to the bit, its LoRA in use."""

import pytest
import torch

from minisd.checkpoints import Checkpoint, tensorfile
from minisd.checkpoints.lora import with_loras
from minisd.checkpoints.lora_file import open_lora
from minisd.equations import flow_scale, flow_time, logit_normal_time
from minisd.guidance import from_flow, from_v
from minisd.models import configs
from minisd.models.autoencoder import AutoencoderKL
from minisd.models.bert import BERTText
from minisd.models.unet import UNet
from minisd.tiny import flow, stages
from minisd.training import Run, Settings, rng

SMALL = configs.replace(configs.TINY, model_channels=16, channel_mult=(1,), attention_factors=())
SETTINGS = Settings(steps=10, batch=2, rate=1e-2, warmup=2, decay=0.5, ema=0.5)


def random_unet():
    """With random numbers in the weights that begin as 0, too."""
    unet, generator = stages.seeded(UNet, SMALL, 0), torch.Generator().manual_seed(0)
    for weight in unet.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    return unet


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A function that makes the stage anew, of a small model with random weights."""
    vae = stages.seeded(AutoencoderKL, configs.TINY_KL, 0)
    text = stages.seeded(BERTText, configs.TINY_TEXT, 0)
    latents = stages.Latents(tmp_path_factory.mktemp("latents"), vae, 6)
    return lambda: flow.Flow(latents, Checkpoint("tiny", random_unet(), vae, text), rank=2)


def content(path):
    return {key: value.read() for key, value in tensorfile.open_tensors(path)[0].items()}


@pytest.mark.equal_bits("a training that goes on, on one machine, ends as in one piece")
def test_a_flow_killed_ten_times_is_one_in_one_piece(stage, tmp_path):
    whole = Run(stage(), SETTINGS, tmp_path / "whole.safetensors")
    for _ in whole.go():
        pass
    whole.save()
    for _ in range(10):
        part = Run(stage(), SETTINGS, tmp_path / "part.safetensors")
        next(part.go())
        part.save()
    one, ten = (content(tmp_path / f"{name}.safetensors") for name in ("whole", "part"))
    assert one.keys() == ten.keys() and all(torch.equal(one[key], ten[key]) for key in one)
    learned = [key for key in one if key.startswith("exp_avg.")]
    assert learned and all(key.endswith((".down", ".up")) for key in learned)  # the LoRA alone


def test_the_loss_by_hand(stage):
    part = stage()
    z, tokens, t, eps = part._sample(rng(part.seed, 3, 1))
    x0, time = z.float() * part.scale, float(t) / 1000
    x_t = (1 - time) * x0 + time * eps
    with torch.no_grad():
        context = part.network["text"](tokens[None]).context
        u = part.network["unet"](x_t[None], t[None] - 1, context)[0]
        want = ((eps - x0 - u) ** 2).mean()
        assert abs(float(part.loss(3, [1]) - want)) <= 1e-6 * float(want)


def test_its_times_are_logit_normal(stage):
    """Against SD 3's own way to draw them: the share of times up to each decile."""
    part = stage()
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).double()
    t = logit_normal_time(z)
    for k in range(100, 1000, 100):
        share = float((t <= k / 1000).double().mean())
        assert abs(part.until[k] - share) <= 5e-3
    assert part.until[0] == 0 and part.until[-1] == 1


def test_as_v_it_is_the_same_model(stage):
    unet, ab = random_unet().eval(), stages.tiny_schedule()
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    context = torch.randn(
        2, 24, configs.TINY_TEXT.width, generator=torch.Generator().manual_seed(2)
    )
    as_v = flow.AsV(unet)

    def velocity(x, t):
        return as_v(x, torch.full((2,), t) - 1, context)

    def u_model(z, t):
        return unet(z, torch.full((2,), 1000 * t - 1), context)

    for t in (1000, 600, 7):
        with torch.no_grad():
            one, other = from_v(velocity, ab)(x, t), from_flow(u_model, ab)(x, t)
        assert (one.eps - other.eps).abs().max() <= 1e-4
        assert (one.x0 - other.x0).abs().max() <= 1e-4
    assert flow_time(float(ab[1000])) == flow_scale(1.0) == 1


def test_its_lora_is_a_file_that_others_read(stage, tmp_path):
    part = stage()
    run = Run(part, SETTINGS._replace(steps=1), tmp_path / "run.safetensors")
    for _ in run.go():
        pass
    flow.save_flow(run, tmp_path / "flow.safetensors")
    whole = Checkpoint("tiny", random_unet())
    merged = with_loras(whole, [(open_lora(tmp_path / "flow.safetensors"), 1.0)]).unet.eval()
    generator = torch.Generator().manual_seed(3)
    x, index = torch.randn(1, 4, 16, 16, generator=generator), torch.tensor([400])
    context = torch.randn(1, 24, configs.TINY_TEXT.width, generator=generator)
    part.network.eval()
    for name, weight in zip(run.names, run.average, strict=True):
        part.network.get_parameter(name).data = weight
    with torch.no_grad():
        mine, other = part.network["unet"](x, index, context), merged(x, index, context)
        plain = whole.unet(x, index, context)
    assert (mine - other).abs().max() <= 1e-2 * (mine - plain).abs().max()  # float16

"""Blur and sharp: each network's gradient, the run that stops after each step, what ships."""

import copy

import pytest
import torch
import torch.nn.functional as F

from minisd.checkpoints import tensorfile
from minisd.models import configs
from minisd.models.autoencoder import AutoencoderKL
from minisd.tiny import codebook, sharp, stages
from minisd.tiny.weights import TINY
from minisd.training import Run, Settings

LEAST = configs.AutoencoderConfig(
    channels=4, channel_mult=(1, 1), res_blocks=1, z_channels=1, embed_dim=1, groups=2
)


@pytest.fixture(scope="module", autouse=True)
def few():
    """Few pictures to learn from, so that they are soon painted."""
    with pytest.MonkeyPatch.context() as patch:
        pictures = sharp.grained(range(12), sharp.WAYS)
        patch.setattr(sharp, "seen", lambda ways=None: pictures)
        yield pictures


def stage(**change):
    eye = stages.seeded(sharp.Eye, (4, 4), 1)
    return sharp.Sharp("sharp", eye, config=LEAST, **{"disc_start": 1, **change})


def gradients(module):
    return torch.cat([w.grad.flatten() for w in module.parameters() if w.grad is not None])


def test_both_gradients_are_those_of_the_two_official_passes():
    """LPIPSWithDiscriminator.forward's algebra, optimizer_idx 0 and then 1, on one batch."""
    ours = stage(kl_weight=1e-3, perceptual_weight=1.0)
    theirs = copy.deepcopy(ours)
    ours.loss(3, range(4)).backward()

    vae, critic = theirs.network["vae"], theirs.network["discriminator"]
    x = sharp.batch(0, 3, range(4))[0]
    mean, logvar = vae.quant_conv(vae.encoder(x)).chunk(2, 1)
    noise = torch.stack([stages.normal_of(mean.shape[1:], 0, 3, i) for i in range(4)])
    y = vae.decode(mean + torch.exp(0.5 * logvar) * noise)
    rec = torch.abs(x - y) + theirs.eye.distance(x, y)[:, None, None, None]
    nll = torch.sum(rec) / rec.shape[0]
    kl = 0.5 * torch.sum(mean**2 + torch.exp(logvar) - 1.0 - logvar) / len(x)
    g_loss = -torch.mean(critic(y))
    last = vae.decoder.conv_out.weight
    a, b = (torch.autograd.grad(f, last, retain_graph=True)[0] for f in (nll, g_loss))
    weight = 0.5 * torch.clamp(torch.norm(a) / (torch.norm(b) + 1e-4), 0, 1e4).detach()
    wanted = torch.autograd.grad(
        nll + 1e-3 * kl + weight * g_loss, [*vae.parameters()], retain_graph=True
    )
    wanted = torch.cat([grad.flatten() for grad in wanted])
    assert (gradients(ours.network["vae"]) - wanted).abs().max() < 1e-4 * wanted.abs().max()

    real, fake = critic(x), critic(y.detach())
    d_loss = 0.5 * (torch.mean(F.relu(1.0 - real)) + torch.mean(F.relu(1.0 + fake)))
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(d_loss, [*critic.parameters()])])
    found = gradients(ours.network["discriminator"])
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_before_its_start_the_discriminator_has_no_say():
    late = stage(disc_start=5)
    late.loss(4, range(2)).backward()
    assert all(w.grad is None for w in late.network["discriminator"].parameters())
    late.loss(5, range(2)).backward()
    assert gradients(late.network["discriminator"]).abs().max() > 0


def behind_a_codebook():
    """The VQ stage that begins with an autoencoder."""
    vae = stages.seeded(AutoencoderKL, LEAST, 0).eval()
    return stages.VectorQuantised(configs.replace(LEAST, codes=5), begin=vae)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.equal_bits("a training that goes on, on one machine, ends as in one piece")
@pytest.mark.parametrize("name", ["eye", "sharp", "vq"])
def test_stopped_after_each_of_ten_steps_it_ends_the_same(name, tmp_path, one_thread):
    made = {"eye": sharp.Looking, "sharp": stage, "vq": behind_a_codebook}[name]
    settings = Settings(10, 2, 1e-3, warmup=2, ema=0.9, clip=1e9)

    def content(path):
        return {
            key: value.read().clone() for key, value in tensorfile.open_tensors(path)[0].items()
        }

    whole = Run(made(), settings, tmp_path / "whole.safetensors")
    for _ in whole.go():
        pass
    whole.save()
    for _ in range(10):
        run = Run(made(), settings, tmp_path / "cut.safetensors")
        next(run.go())
        run.save()
    one, two = content(tmp_path / "whole.safetensors"), content(tmp_path / "cut.safetensors")
    assert one.keys() == two.keys()
    assert not [key for key in one if not torch.equal(one[key], two[key])]


def test_the_grain_runs_as_it_is_told(few):
    pictures, told = few
    across = told[:, sharp.TOLD.index("across")] > 0
    rough = [pictures.diff(dim=axis).square().mean((1, 2, 3)) for axis in (3, 2)]
    assert torch.equal(rough[0] < rough[1], across) and 0 < across.sum() < len(across)
    assert torch.equal(told[:, -2:].sum(1), torch.ones(len(told)))


# ---- the codebook -------------------------------------------------------------------------


def test_k_means_finds_heaps():
    """Three heaps far apart: their means, whatever the first centre is."""
    heaps = [stages.normal_of((n, 2), n) * 0.1 + torch.tensor(at) for n, at in
             ((30, [0.0, 0.0]), (20, [5.0, 0.0]), (10, [0.0, 5.0]))]  # fmt: skip
    for seed in range(3):
        centres = codebook.k_means(torch.cat(heaps), 3, seed)
        for heap in heaps:
            assert (centres - heap.mean(0)).norm(dim=1).min() < 1e-5
    for few in (torch.eye(3), torch.eye(3).repeat(2, 1)):
        with pytest.raises(ValueError, match="4 centres need at least as many different .* got 3"):
            codebook.k_means(few, 4)


def test_the_latents_stay_those_of_the_autoencoder():
    config = configs.replace(LEAST, z_channels=3, embed_dim=3)
    vae = stages.seeded(AutoencoderKL, config, 0).eval()
    x = sharp.seen()[0]
    network = codebook.quantised(vae, configs.replace(config, codes=5), x)
    with torch.no_grad():
        z = vae.encode(x).mean
        assert (network.encode(x) - z).abs().max() < 1e-5
        wanted = vae.decode(network.quantize(z)[0])
        assert (network.decode(z) - wanted).abs().max() < 1e-5


def test_the_shipped_codebook_is_for_the_tiny_models_latents():
    from minisd.checkpoints import loading

    vae, vq = loading.load(TINY, "tiny", parts=("vae",)).vae, codebook.shipped()
    x = stages.pictures(10**9 + 5, range(8))
    with torch.no_grad():
        z = vae.encode(x).mean
        assert (vq.encode(x) - z).abs().max() < 0.02  # float16 beside float32
        back = vq.decode(z)
    assert ((back - x) ** 2).mean() < 4 / 10**3.5  # 35 dB
    assert len(vq.quantize.indices(z).unique()) > 200
    assert vq.config.scale_factor == vae.config.scale_factor


def test_the_shipped_sharp_stage_is_sharp():
    eye, blur, sharper = sharp.shipped()
    x, _ = sharp.grained(range(9000, 9016))
    measured = {}
    for name, vae in (("blur", blur), ("sharp", sharper)):
        with torch.no_grad():
            y = vae.decode(vae.encode(x).mean)
            measured[name] = ((y - x) ** 2).mean(), eye.distance(x, y).mean(), sharp.detail(y)
    assert measured["blur"][0] < measured["sharp"][0]  # what it costs
    assert measured["sharp"][1] < 0.85 * measured["blur"][1]
    ratio = [float(measured[name][2] / sharp.detail(x)) for name in ("blur", "sharp")]
    assert ratio[0] < 0.25 and 0.5 < ratio[1] < 1.5

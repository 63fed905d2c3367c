"""The distillation of the tiny model: its loss by hand, resumed to the bit, its LoRA in use."""

import numpy as np
import pytest
import torch
from torch import nn

from minisd.checkpoints import Checkpoint, tensorfile
from minisd.checkpoints import loading as checkpoint
from minisd.checkpoints.lora import with_loras
from minisd.checkpoints.lora_file import open_lora
from minisd.models import configs
from minisd.models.autoencoder import AutoencoderKL
from minisd.models.bert import BERTText
from minisd.models.lora import loras
from minisd.models.unet import UNet
from minisd.tiny import distil, stages, train
from minisd.tiny.stages import tiny_schedule
from minisd.training import Run, Settings, rng

SMALL = configs.replace(configs.TINY, model_channels=16, channel_mult=(1,), attention_factors=())
SETTINGS = Settings(steps=10, batch=2, rate=1e-2, warmup=2, decay=0.5, ema=0.5)


def random_unet(config):
    """With random numbers in the weights that begin as 0, too."""
    unet, generator = stages.seeded(UNet, config, 0), torch.Generator().manual_seed(0)
    for weight in unet.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    return unet


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A function that makes the stage anew, of a small teacher with random weights."""
    folder = tmp_path_factory.mktemp("latents")
    vae = stages.seeded(AutoencoderKL, configs.TINY_KL, 0)
    text = stages.seeded(BERTText, configs.TINY_TEXT, 0)
    latents = stages.Latents(folder, vae, 6)

    def made(**options):
        unet = random_unet(SMALL)
        return distil.Distilled(latents, Checkpoint("tiny", unet, vae, text), 2.0, 2, **options)

    return made


def content(path):
    return {key: value.read() for key, value in tensorfile.open_tensors(path)[0].items()}


@pytest.mark.equal_bits("a training that goes on, on one machine, ends as in one piece")
def test_a_distillation_killed_ten_times_is_one_in_one_piece(stage, tmp_path):
    whole = Run(stage(), SETTINGS, tmp_path / "whole.safetensors")
    for _ in whole.go():
        pass
    whole.save()
    for done in range(SETTINGS.steps):
        pieces = Run(stage(), SETTINGS, tmp_path / "pieces.safetensors")
        assert pieces.step == done
        next(pieces.go())
        pieces.save()
    a, b = content(whole.path), content(pieces.path)
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert len(set(a["losses"].tolist())) == SETTINGS.steps


class Says(nn.Module):
    """A U-Net's stand-in: v = a x + b index/1000 + the mean of the context."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x, index, context):
        middle = context.mean((1, 2)) + self.b * index / 1000
        return self.a * x + middle.view(-1, 1, 1, 1).to(x)


@pytest.mark.parametrize("levels, between", [(4, 2), (2, 3)])
def test_the_loss_is_that_of_the_equations(stage, levels, between):
    """Sample by sample in float64, each step of the teacher by DDIM's eq. 12."""
    made = stage(levels=levels, between=between)
    made.unet, made.network = Says(0.3, 0.2), Says(-0.4, 0.1)
    ab, expected, seen = tiny_schedule().numpy(), [], set()
    times = [round(1000 - 1000 * k / (levels * between)) for k in range(levels * between + 1)]
    empty = float(made.text(stages.tokenizer()("")).context.mean())
    for i in range(6):
        z, tokens, level, eps = made._sample(rng(0, 3, i))
        x = made.latent_scale * z.double()
        words = float(made.text(tokens[None]).context.mean())
        k = int(level)
        t = times[k]
        seen.add(t)
        x_t = ab[t] ** 0.5 * x + (1 - ab[t]) ** 0.5 * eps.double()

        def x0(x, t, a, b, c):
            return ab[t] ** 0.5 * x - (1 - ab[t]) ** 0.5 * (a * x + b * (t - 1) / 1000 + c)

        x, said = x_t, t
        for s in times[k + 1 : k + 1 + between]:
            clean = x0(x, t, 0.3, 0.2, 2 * words - empty)  # u + 2 (c - u)
            noise = (x - ab[t] ** 0.5 * clean) / (1 - ab[t]) ** 0.5
            x, t = ab[s] ** 0.5 * clean + (1 - ab[s]) ** 0.5 * noise, s
        target = x if t == 0 else x0(x, t, -0.4, 0.1, words)
        expected.append(float(((x0(x_t, said, -0.4, 0.1, words) - target) ** 2).mean()))
    assert abs(float(made.loss(3, range(6))) - np.mean(expected)) < 1e-5 * np.mean(expected)
    assert len(seen) > 1


def test_times_are_those_of_the_levels(stage):
    made = stage()
    levels = [int(made._sample(rng(0, 0, i))[2]) for i in range(400)]
    times = torch.tensor(made.times)[levels]
    found = {int(t): int((times == t).sum()) for t in times.unique()}
    assert found.keys() == {1000, 750, 500, 250} and min(found.values()) > 60


def test_only_the_lora_learns_and_its_file_gives_the_student(stage, tmp_path):
    run = Run(stage(), SETTINGS, tmp_path / "distil.safetensors")
    teacher, before = stage(), run.stage.loss(0, range(8)).detach()
    for _ in run.go():
        pass
    assert run.stage.loss(0, range(8)) < 0.96 * before  # here 0.92
    distil.save_student(run, tmp_path / "fast.safetensors")
    kept = run.stage.unet.state_dict()
    assert all(torch.equal(kept[k], w) for k, w in teacher.unet.state_dict().items())
    whole = Checkpoint("tiny", teacher.unet, None, teacher.text)
    merged = with_loras(whole, [(open_lora(tmp_path / "fast.safetensors"), 1.0)]).unet
    for (_, lora), average in zip(
        loras(run.stage.network), zip(run.average[::2], run.average[1::2], strict=True), strict=True
    ):
        lora.down.data, lora.up.data = average
    x, index = torch.randn(2, 4, 16, 16), torch.tensor([999, 249])
    context = teacher.text(stages.tokenizer()(["a ring", ""])).context
    with torch.no_grad():
        student = run.stage.network.eval()(x, index, context)
        assert (merged(x, index, context) - student).abs().max() < 2e-3 * student.abs().max()
        assert (teacher.unet(x, index, context) - student).abs().max() > 2e-2 * student.abs().max()


def test_a_distillation_without_a_teacher_says_what_to_do(tmp_path):
    for begin in (None, tmp_path / "tiny.safetensors"):
        with pytest.raises(tensorfile.CheckpointError, match="train export first, or .* --begin"):
            train.stage("distil", tmp_path, 60, begin)


def test_the_command_leaves_a_lora_that_fits(tmp_path):
    """From a checkpoint on disk, as `minisd train distil --begin` has it."""
    vae = stages.seeded(AutoencoderKL, configs.TINY_KL, 0)
    text = stages.seeded(BERTText, configs.TINY_TEXT, 0)
    begin = tmp_path / "model.safetensors"
    unet = random_unet(configs.TINY)
    checkpoint.save(begin, Checkpoint("tiny", unet, vae, text))
    out = tmp_path / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(train.SETTINGS, "distil", SETTINGS._replace(steps=1))
        train.train_stages(["distil"], out, begin, scenes=6, begin=begin)
    lora = out / "fast.safetensors"
    assert lora.stat().st_size < 1e6
    changed = with_loras(checkpoint.load(begin), [(open_lora(lora), 1.0)]).unet.state_dict()
    moved = [k for k, w in unet.state_dict().items() if not torch.equal(w, changed[k])]
    assert len(moved) > 50 and all(k.endswith("weight") for k in moved)

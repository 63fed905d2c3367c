"""Every stage of the tiny model, trained for a few steps, exported; and what each learns from."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from network_pairs import difference
from torch import nn

from minisd.__main__ import main
from minisd.checkpoints import loading as checkpoint
from minisd.checkpoints import tensorfile
from minisd.models import configs
from minisd.models.autoencoder import AutoencoderKL, Posterior
from minisd.models.bert import BERTText
from minisd.models.unet import UNet
from minisd.tiny import stages, train
from minisd.tiny.captions import LONGEST, NUMBERS, WORDS, caption, read
from minisd.tiny.scenes import SIZES, paint, random_scene
from minisd.tiny.shapes import BACKGROUNDS, PAINTS, SHAPES
from minisd.training import Run, Settings, rng


def content(path):
    return {key: value.read() for key, value in tensorfile.open_tensors(path)[0].items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


SHORT = {  # settings; what may be left of the loss on its batches (left: 0.69, 0.46, 0.37, 0.74)
    "kl": (Settings(20, 2, 4e-3, 0, 0.5, 0.5), 0.75),
    "vq": (Settings(20, 2, 4e-3, 0, 0.5, 0.5), 0.75),
    "text": (Settings(15, 8, 2e-3, 0, 0.5, 0.5), 0.75),
    "unet": (Settings(8, 2, 2e-3, 0, 0.5, 0.5), 0.9),
}
PARTS = {  # of an exported file: the official prefix, the network, the run and what it calls it
    "vae": ("first_stage_model.", AutoencoderKL, configs.TINY_KL, "kl", ""),
    "unet": ("model.diffusion_model.", UNet, configs.TINY, "unet", "unet."),
    "text": ("cond_stage_model.", BERTText, configs.TINY_TEXT, "unet", "text."),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every stage trained for a few steps, and exported."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        settings = {name: short for name, (short, _) in SHORT.items()}
        settings["distil"] = Settings(1, 2, 2e-3, 0, 0.5, 0.5)
        patch.setattr(train, "SETTINGS", settings)
        out = str(folder / "tiny.safetensors")
        assert main(["train", "--folder", str(folder), "--scenes", "60", "--out", out]) == 0
    return folder


@pytest.mark.parametrize("name", SHORT)
def test_a_stage_learns(folder, name):
    settings, left = SHORT[name]
    before = loss_of(train.stage(name, folder, 60), settings)
    run = Run(train.stage(name, folder, 60), settings, folder / f"{name}.safetensors")
    assert len(run.losses) == settings.steps
    assert loss_of(run.stage, settings) < left * before


@torch.no_grad()
def loss_of(stage, settings: Settings) -> float:
    """On all batches of a training: one has black pictures, another white ones."""
    of = [float(stage.loss(step, range(settings.batch))) for step in range(settings.steps)]
    return sum(of) / len(of)


def test_what_is_exported_is_the_average_under_official_names(folder):
    stored, expected = content(folder / "tiny.safetensors"), {}
    for prefix, module, config, name, part in PARTS.values():
        run = content(folder / f"{name}.safetensors")
        for key, value in module(config).state_dict().items():
            weight = run.get(f"average.{part}{key}", run[f"network.{part}{key}"])
            assert weight.shape == value.shape
            expected[prefix + key] = weight.half()
    assert same(stored, expected)
    assert sum(value.numel() for value in stored.values()) * 2 < 10e6


def test_what_is_exported_can_be_loaded(folder):
    whole = checkpoint.load(folder / "tiny.safetensors")
    scale = whole.vae.config.scale_factor
    assert whole.family == "tiny"
    for name, (_, module, config, _, _) in PARTS.items():
        config = configs.replace(config, scale_factor=scale) if name == "vae" else config
        assert type(getattr(whole, name)) is module and getattr(whole, name).config == config
    z = whole.vae.encode(stages.pictures(10**9, range(50))).mean.detach()
    assert abs(float(z.std()) * scale - 1) < 1e-3


def test_a_first_stage_of_another_training_is_not_exported(folder, tmp_path):
    for name in ("kl", "unet"):
        shutil.copy(folder / f"{name}.safetensors", tmp_path)
    kept, about = tensorfile.open_tensors(tmp_path / "kl.safetensors")
    changed = {key: value.read().clone() for key, value in kept.items()}
    changed["average.quant_conv.weight"] *= 2
    tensorfile.save_tensors(tmp_path / "kl.safetensors", changed, about)
    with pytest.raises(ValueError, match="unet learned latents of scale .*, kl's is now"):
        train.export(tmp_path, tmp_path / "tiny.safetensors", 60)


@pytest.mark.parametrize("scenes", [1, 49, 50, 80_000])
def test_the_latents_scale_is_measured_on_at_least_one_batch(scenes, folder):
    assert train.first_stage(folder, scenes)[1] > 0


def test_a_checkpoint_of_the_runs_beside_it(folder, tmp_path, monkeypatch, capsys):
    """The advice to who gives a run as --begin, followed to the letter."""
    with pytest.raises(ValueError, match="make one of the runs beside it with") as told:
        train.begun(folder / "kl.safetensors")
    words = str(told.value).split("python -m minisd train ")[1].split(", and their")[0].split(" ")
    monkeypatch.chdir(tmp_path)
    for times in (1, 2):
        capsys.readouterr()
        assert main(["train", *words, "--scenes", "60"]) == 0
        told = capsys.readouterr()
        assert told.out == "tiny.safetensors\n"
        assert ("tiny.safetensors was there before, and is replaced" in told.err) == (times == 2)
    assert train.begun(tmp_path / "tiny.safetensors").unet is not None


def test_a_unet_of_a_strange_scale_is_not_exported(folder, tmp_path):
    for name in ("kl", "unet"):
        shutil.copy(folder / f"{name}.safetensors", tmp_path)
    path = tmp_path / "unet.safetensors"
    tensors, about = content(path), tensorfile.open_tensors(path)[1]
    for scale in ("null", "NaN"):
        run = re.sub(r'"scale": [0-9.]+', f'"scale": {scale}', about["run"])
        tensorfile.save_tensors(path, tensors, about | {"run": run})
        with pytest.raises(tensorfile.CheckpointError, match="unet learned latents of scale"):
            train.export(tmp_path, tmp_path / "tiny.safetensors", 60)
    tensorfile.save_tensors(path, tensors, {})
    with pytest.raises(tensorfile.CheckpointError, match="unet.* is no run of a training"):
        train.export(tmp_path, tmp_path / "tiny.safetensors", 60)


def test_a_finished_model_is_trained_on(folder, tmp_path, capsys):
    """--begin: its weights, its first stage and its scale, and no run is needed for them."""
    begin, out = folder / "tiny.safetensors", tmp_path / "on.safetensors"
    joint = train.stage("unet", tmp_path, 60, begin)
    before, whole = joint.network.state_dict(), checkpoint.load(begin)
    assert same(
        before,
        {f"unet.{k}": v for k, v in whole.unet.state_dict().items()}
        | {f"text.{k}": v for k, v in whole.text.state_dict().items()},
    )
    assert joint.scale == whole.vae.config.scale_factor and joint.network.training
    plain = stages.Joint(latents(tmp_path), 1.0, BERTText(configs.TINY_TEXT))
    often = np.diff(joint.until) / np.diff(plain.until)  # of t = 1, 2, ..., 1000
    assert np.ptp(often[599:959]) < 1e-9 and np.ptp(np.delete(often, slice(599, 959))) < 1e-9
    assert abs(often[700] / often[0] - train.LATE) < 1e-9  # and in the loss once more
    heavy = (joint.weight / plain.weight)[1:]
    assert abs(float(heavy[700] / heavy[0]) - train.LATE) < 1e-9
    assert joint.about["late"] == train.LATE and "late" not in plain.about
    words = [
        "train",
        "unet",
        "export",
        "--begin",
        str(begin),
        "--folder",
        str(tmp_path),
        "--steps",
        "2",
    ]
    assert main([*words, "--scenes", "60", "--out", str(out)]) == 0
    old, new = content(begin), content(out)
    moved = [key for key in old if not torch.equal(old[key], new[key])]
    assert old.keys() == new.keys() and not [k for k in moved if k.startswith("first_stage")]
    assert any(k.startswith("model.") for k in moved)
    about = json.loads(tensorfile.open_tensors(tmp_path / "unet.safetensors")[1]["run"])
    asked = train.FURTHER._asdict()
    assert all(about[name] == asked[name] for name in ("batch", "rate", "warmup", "ema", "clip"))
    run = tmp_path / "unet.safetensors"  # no checkpoint yet, but what the sentence says makes one
    on_run = [
        "train",
        "unet",
        "--begin",
        str(run),
        "--folder",
        str(tmp_path / "on"),
        "--scenes",
        "60",
    ]
    capsys.readouterr()
    assert main(on_run) == 1
    said = capsys.readouterr().err
    assert "is a run, and --begin takes a checkpoint" in said
    assert f"python -m minisd train export --folder {tmp_path}, and their --scenes" in said
    shutil.copy(folder / "unet.safetensors", tmp_path)  # which began with other weights
    assert main([*words, "--scenes", "60", "--out", str(out)]) == 1
    assert re.search("settings .*begin", capsys.readouterr().err)


# ---- what they learn from -----------------------------------------------------------------


def latents(folder, n=6, chunk=3, seed=0):
    vae = stages.seeded(AutoencoderKL, configs.TINY_KL, seed)
    return stages.Latents(folder, vae, n, chunk)


def test_latents_are_made_once_for_an_autoencoder(tmp_path):
    first = latents(tmp_path)
    assert first.z.shape == (6, 4, 16, 16) and first.tokens.shape == (6, 4, 24)
    assert len(first) == 6 and first.z.unique(dim=0).shape == first.z.shape
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = latents(tmp_path)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert torch.equal(first.z, again.z) and torch.equal(first.tokens, again.tokens)
    other = latents(tmp_path, seed=1)
    assert not torch.equal(first.z, other.z) and torch.equal(first.tokens, other.tokens)
    assert difference(latents(tmp_path).z, first.z) < 2e-3  # made again, in float16
    assert difference(latents(tmp_path, 4, 2).z[:2], first.z[:2]) < 2e-3  # parts of another size
    with pytest.raises(ValueError, match="7 scenes cannot be kept in parts of 3"):
        latents(tmp_path, 7)


def test_processes_share_the_making_of_latents(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    one = latents(tmp_path / "one")
    monkeypatch.setattr(stages, "wait", lambda: None)
    monkeypatch.setattr(stages, "group", lambda: (2, 1))
    with pytest.raises(ValueError, match="latents-000.safetensors"):  # the other has not come yet
        latents(tmp_path)
    assert [path.name for path in tmp_path.glob("latents*")] == ["latents-001.safetensors"]
    monkeypatch.setattr(stages, "group", lambda: (2, 0))
    assert difference(latents(tmp_path).z, one.z) < 2e-3  # float16


def test_latents_are_the_scenes_of_their_captions(tmp_path):
    """Decoded by an autoencoder that keeps pictures as they are: every fourth pixel of each."""

    class Every(nn.Module):
        def encode(self, x):
            x = x[:, [0, 1, 2, 0], 2::4, 2::4]
            return Posterior(x, torch.full_like(x, -30))

    made = stages.Latents(tmp_path, Every(), 4)
    vocabulary = {int(stages.tokenizer()(word)[0, 1]): word for word in WORDS}
    for i in range(4):
        scene = random_scene(rng(stages.JOINT, 0, i))
        x = paint(scene)[[0, 1, 2, 0], 2::4, 2::4]
        assert (made.z[i] - x).abs().max() < 2e-3
        for tokens in made.tokens[i].tolist():
            text = " ".join(vocabulary[token] for token in tokens if token in vocabulary)
            assert {thing.shape for thing in read(text).things} == {t.shape for t in scene.things}


def test_the_u_nets_times_and_captions(tmp_path):
    joint = stages.Joint(latents(tmp_path), 1.0, BERTText(configs.TINY_TEXT))
    drawn = [joint._sample(rng(0, 0, i)) for i in range(2000)]
    empty = sum(torch.equal(tokens, joint.empty) for _, tokens, _, _ in drawn)
    assert abs(empty / 2000 - 0.1) < 0.02
    start, end = joint.empty[:2]
    single = [tokens for _, tokens, _, _ in drawn if (tokens != 0).sum() == 3]
    short = float(((joint.latents.tokens != 0).sum(2) == 4).double().mean())  # "a star"
    assert abs(len(single) / 2000 - (0.05 + 0.1 * short)) < 0.015
    bare = sum(not torch.isin(tokens, joint.articles).any() for _, tokens, _, _ in drawn)
    none = ~torch.isin(joint.latents.tokens.long(), joint.articles).any(2)  # as "two stars"
    assert abs(bare / 2000 - (0.25 + 0.75 * float(none.double().mean()))) < 0.05
    assert all(tokens[0] == start and tokens[2] == end for tokens in single)
    words = {int(stages.tokenizer()(word)[0, 1]) for word in WORDS}
    said = {int(tokens[1]) for tokens in single}
    assert said <= words and len(said) > 10
    t = torch.stack([t for _, _, t, _ in drawn])
    assert t.min() >= 1 and t.max() <= 1000
    ab = joint.ab[1:].numpy()
    often = np.sqrt(4 * ab * (1 - ab) + 0.08)
    expected = 2000 * often.reshape(10, 100).sum(1) / often.sum()
    found = torch.bincount((t - 1) // 100).numpy()
    assert len(found) == 10 and (np.abs(found - expected) < 5 * np.sqrt(expected)).all()
    eps = torch.stack([eps for _, _, _, eps in drawn])
    assert abs(eps.mean()) < 1e-2 and abs(eps.std() - 1) < 1e-2


def test_a_caption_without_its_articles(tmp_path):
    joint = stages.Joint(latents(tmp_path), 1.0, BERTText(configs.TINY_TEXT))
    tokens = stages.tokenizer()
    for text in (
        "a red circle above an orange ring on a navy background",
        "three green circles",
        "an orange star, a ring and a cross from left to right",
    ):
        bare = " ".join(word for word in text.split() if word not in ("a", "an"))
        assert torch.equal(joint._without_articles(tokens(text)[0]), tokens(bare)[0])


def test_the_u_nets_weights_and_schedule(tmp_path):
    """ᾱ_T = 0; weight times probability is ∝ 4 ᾱ (1 - ᾱ) + 0.08, and the mean weight is 1."""
    joint = stages.Joint(latents(tmp_path), 1.0, BERTText(configs.TINY_TEXT))
    ab = joint.ab[1:].numpy()
    assert len(ab) == 1000 and ab[-1] == 0 and (np.diff(ab) < 0).all()
    share = np.diff(joint.until)
    counts, expected = joint.weight[1:].numpy() * share, 4 * ab * (1 - ab) + 0.08
    assert abs(share.sum() - 1) < 1e-12 and abs(counts.sum() - 1) < 1e-12
    assert np.abs(counts - expected / expected.sum()).max() < 1e-12
    ratio = share / joint.weight[1:].numpy()
    assert np.ptp(ratio) < 1e-12


def test_the_u_nets_loss_is_that_of_the_equations(tmp_path):
    """With a U-Net that says 0, the loss is the weighted mean of v², v = √ᾱ ε - √(1-ᾱ) x0."""
    joint = stages.Joint(latents(tmp_path), 1.7, BERTText(configs.TINY_TEXT))
    joint.network["unet"] = Zero()
    all_times = joint.ab[1:].numpy()
    root = np.sqrt(4 * all_times * (1 - all_times) + 0.08)
    losses = []
    for i in range(5):
        z, _, t, eps = joint._sample(rng(0, 3, i))
        ab = float(joint.ab[t])
        v = ab**0.5 * eps.double() - (1 - ab) ** 0.5 * 1.7 * z.double()
        weight = root[int(t) - 1] * root.sum() / (root**2).sum()
        losses.append(weight * float((v**2).mean()))
    assert abs(float(joint.loss(3, range(5))) - np.mean(losses)) < 1e-5


class Zero(nn.Module):
    def forward(self, x, t, context):
        assert t.min() >= 0 and t.max() <= 999
        return torch.zeros_like(x)


def test_answers_are_those_of_the_scene():
    for i in range(300):
        random = rng(5, i)
        scene = random_scene(random)
        text = caption(scene, random)
        said = dict(zip(stages.QUESTIONS, stages.answers(text), strict=True))
        found = {q: stages.QUESTIONS[q][answer] for q, answer in said.items()}
        true, n = {"background": {scene.background}}, len(scene.things)
        if n == 1 or len({thing[:3] for thing in scene.things}) == 1:
            places, true["number"] = {"alone": scene.things[:1]}, {n}
        else:  # by where they stand: the relation's own axis
            across = scene.relation in ("left", "right")
            order = sorted(scene.things, key=lambda thing: thing.x if across else thing.y)
            names = ("left", "middle", "right") if across else ("above", "middle", "below")
            names = names if n == 3 else names[::2]
            places = {name: [thing] for name, thing in zip(names, order, strict=True)}
            named = scene.things[::2] if "middle shape" in said and " between " in text else order
            places |= dict.fromkeys(("first", "second", "third"), named)
        if n == 3:
            true["line"] = {{"left": "row", "above": "column"}.get(scene.relation)}
        for place, things in places.items():
            for what in ("shape", "color", "size"):
                true[f"{place} {what}"] = {getattr(thing, what) for thing in things}
        for question, answer in found.items():
            assert answer is None or answer in true[question], (text, question)
        for word in text.replace(",", "").split():
            if word in {*SHAPES, *PAINTS, *SIZES, *BACKGROUNDS}:
                assert word in found.values(), text
        assert found["number"] == NUMBERS.get(next((w for w in text.split() if w in NUMBERS), ""))


def test_the_example_of_answers():
    said = dict(zip(stages.QUESTIONS, stages.answers("a red circle left of a square"), strict=True))
    found = {question: stages.QUESTIONS[question][answer] for question, answer in said.items()}
    assert {question: answer for question, answer in found.items() if answer} == {
        "left shape": "circle",
        "left color": "red",
        "right shape": "square",
    }


@pytest.mark.parametrize(
    "text, places",
    [
        ("a ring between a star and a cross",
         {"middle": "ring", "first": "star", "second": "cross"}),
        ("a ring, a star and a cross", {"first": "ring", "second": "star", "third": "cross"}),
        ("a ring, a star and a cross in a column",
         {"above": "ring", "middle": "star", "below": "cross", "line": "column"}),
        ("a ring and a star", {"first": "ring", "second": "star"}),
        ("there are three stars in a row", {"alone": "star", "number": 3, "line": "row"}),
    ],
)  # fmt: skip
def test_where_a_caption_says_that_things_are(text, places):
    said = dict(zip(stages.QUESTIONS, stages.answers(text), strict=True))
    found = {question: stages.QUESTIONS[question][answer] for question, answer in said.items()}
    found = {name.removesuffix(" shape"): answer for name, answer in found.items() if answer}
    assert found == places


def test_every_word_is_a_token_and_every_caption_fits():
    tokens = stages.tokenizer()
    for word in WORDS:
        row = tokens(word)[0].tolist()
        assert row[2] == tokens("")[0, 1] and row[1] < configs.TINY_TEXT.vocabulary, word
    longest = ["a picture of a small orange triangle a small blue star and a small red ring"]
    longest += ["from left to right on white"]
    assert len(" ".join(longest).split()) == LONGEST
    row = tokens(" ".join(longest))[0]
    assert len(row) == 24 and row[-1] == tokens("")[0, 1] and configs.TINY_TEXT.pad not in row
    assert len({tuple(tokens(word)[0].tolist()) for word in WORDS}) == len(WORDS)


def test_merges_are_learned_from_captions():
    """tiny.txt is stages.merges() of 5000 captions, 155 pairs; fewer give nearly the same start."""
    lines = (stages.files("minisd.text") / "merges" / "tiny.txt").read_text().splitlines()
    few = stages.merges(400)
    assert len(lines) == 155 and len(set(map(" ".join, few[:20])) - {*lines}) <= 2

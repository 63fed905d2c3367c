"""New things for the tiny model: the judge knows them, the trainings go on to the bit, and each
leaves its kind of file."""

import argparse
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from minisd.__main__ import main
from minisd.checkpoints import Checkpoint, load, save_embedding
from minisd.command.tasks import train_options
from minisd.losses import prior_preservation
from minisd.models import configs
from minisd.models.bert import BERTText
from minisd.models.lora import add_lora
from minisd.models.unet import UNet
from minisd.models.words import add_words
from minisd.pipeline import Pipeline
from minisd.tiny import lessons, stages, train
from minisd.tiny.captions import Request, Wanted
from minisd.tiny.judge import judge, look
from minisd.tiny.lessons import LESSONS, Pictures, Teaching, moved, new_scene, request, say
from minisd.tiny.scenes import paint, random_scene
from minisd.tiny.shapes import NEW_SHAPES, SHAPES
from minisd.tiny.weights import TINY
from minisd.training import Run, Settings, rng, torch_rng

ALL = (*SHAPES, *NEW_SHAPES)
RESUMED = pytest.mark.equal_bits("a training that goes on, on one machine, ends as in one piece")


# ---- what is taught, and its judge --------------------------------------------------------


@pytest.mark.parametrize("name", LESSONS)
def test_what_is_said_is_what_is_drawn(name):
    """The judge, which sees only the drawing, agrees with the caption, and with all that is so."""
    lesson, held = LESSONS[name], bool(LESSONS[name].held_out)
    for i in range(30):
        random = rng(51, i)
        scene, k = new_scene(lesson, random, held_out=held and i % 2 == 0)
        text, picture = say(lesson, scene, k, random), paint(scene)
        assert lesson.word in text and judge(picture, request(lesson, text), lesson.shapes).right
        assert bool({*scene.things[k][:2]} & {*lesson.held_out}) == (held and i % 2 == 0)
        things = tuple(Wanted(*thing[:3]) for thing in scene.things)
        whole = Request(things, scene.background, scene.relation)
        assert judge(picture, whole, lesson.shapes).right, text
        wrong = things[k]._replace(size="small" if things[k].size == "large" else "large")
        whole = whole._replace(things=(*things[:k], wrong, *things[k + 1 :]))
        assert not judge(picture, whole, lesson.shapes).right


def test_a_crescent_is_told_from_the_old_shapes():
    """It is seen as itself where it may be there, and as nothing of the world where not."""
    for i in range(30):
        (thing,) = (scene := random_scene(rng(52, i), 1)).things
        moon = paint(scene._replace(things=(thing._replace(shape="crescent", radius=0.11),)))
        assert [found[:2] for found in look(moon, ALL).things] == [("crescent", thing.color)]
        assert [found[:2] for found in look(moon).things] == [(None, thing.color)]
        assert look(paint(scene), ALL) == look(paint(scene))


def test_a_moved_picture_is_the_same_picture_moved():
    """Whole pixels on a plain background: the drawing rolled, to the bit but for rounding."""
    for i in range(10):
        scene, _ = new_scene(LESSONS["dreambooth"], random := rng(53, i))
        after = moved(scene, random)
        dx, dy = (
            round(64 * (b - a))
            for a, b in zip(scene.things[0][4:6], after.things[0][4:6], strict=True)
        )
        rolled = paint(scene).roll((dy, dx), (1, 2))
        assert (rolled - paint(after)).abs().max() < 1e-5 and (dx or dy)


def test_a_caption_of_the_new_word_is_read_as_what_it_means():
    sun = request(LESSONS["word"], "a sun left of a red square on white")
    things = Wanted("circle", "yellow", "large"), Wanted("square", "red")
    assert sun == Request(things, "white", "left")
    own = request(LESSONS["dreambooth"], "a circle above a sks circle")
    assert own == Request((Wanted("circle"), Wanted("crescent", "yellow")), None, "above")
    with pytest.raises(ValueError, match="no caption has the words sunny"):
        request(LESSONS["word"], "a sunny circle")


# ---- the trainings ------------------------------------------------------------------------

SETTINGS = Settings(steps=10, batch=2, rate=1e-3, warmup=2)


def small_model():
    unet = replace(configs.TINY, model_channels=8, groups=4, context_dim=32, channel_mult=(1, 1))
    unet = replace(
        unet, attention_factors=(2,), transformer_depth=(1, 1), self_attention=(True, True)
    )
    text = replace(configs.TINY_TEXT, width=32, layers=1)
    vae = SimpleNamespace(config=configs.TINY_KL)
    network = stages.seeded(UNet, unet, 0)
    for i, weight in enumerate(network.parameters()):  # as after a training: no layer gives 0
        if not weight.any() and weight.ndim > 1:
            weight.data += 0.1 * torch.randn(weight.shape, generator=torch_rng(6, i))
    return Checkpoint("tiny", network, vae, stages.seeded(BERTText, text, 1))


def teaching(name, prior_weight=1.0, prior_target="prediction"):
    """A Teaching of a small network and pictures of noise."""
    whole = small_model()
    z = torch.randn(6, 4, 8, 8, generator=torch_rng(1))
    tokens = stages.tokenizer()(["a red circle"] * 4).expand(6, -1, -1).clone()
    new, prior = Pictures(z[:3], tokens[:3]), Pictures(z[3:], tokens[3:])
    prior = prior if name != "word" else None
    stage = Teaching(name, whole, new, prior, prior_weight, prior_target)
    if LESSONS[name].rank:
        add_lora(whole.unet, 2, generator=torch_rng(2))
        add_lora(whole.text, 2, lessons.TEXT_LAYERS, generator=torch_rng(3))
    elif name == "word":
        whole.unet.requires_grad_(False)
        add_words(whole.text, torch.randn(1, 32, generator=torch_rng(4)))
        tokens[..., 3] = whole.text.config.vocabulary - 1
    return stage


@RESUMED
@pytest.mark.parametrize("name", LESSONS)
def test_killed_after_each_of_ten_steps_it_ends_the_same(name, tmp_path):
    whole, parts = (Run(teaching(name), SETTINGS, tmp_path / f"{i}.safetensors") for i in "ab")
    for _ in whole.go():
        pass
    whole.save()
    for step in range(10):
        parts = Run(teaching(name), SETTINGS, parts.path)
        assert parts.step == step
        next(parts.go())
        parts.save()
    ours, theirs = load_file(whole.path), load_file(parts.path)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    begun = teaching(name).network.state_dict()
    moved = {k for k in begun if not torch.equal(begun[k], ours[f"network.{k}"])}
    if LESSONS[name].rank:
        assert moved and all(k.endswith((".up", ".down")) for k in moved)
    if name == "word":
        assert moved == {"text.transformer.token_emb.vectors"}


def test_the_prior_loss_is_the_papers_sum():
    """Eq. 2 by its parts: the loss with weight λ is that without a prior plus λ times the rest."""
    alone = teaching("lora")
    alone.prior = None
    new = alone.loss(0, range(3)).detach()
    one, three = (teaching("lora", w, "data").loss(0, range(3)).detach() for w in (1.0, 3.0))
    prior = (three - one) / 2
    assert abs(float(one - new - prior)) < 1e-5 and prior > 0.01
    swapped = teaching("lora", prior_target="data")
    swapped.prior = swapped.latents
    assert abs(float(swapped.loss(0, range(3)).detach() - one)) > 1e-3
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 0.5])
    assert prior_preservation(a, b, 0.5).tolist() == [3.0, 2.25]
    with pytest.raises(ValueError, match="as many new losses as prior"):
        prior_preservation(a, b[:1])


@pytest.mark.parametrize("name", ["lora", "dreambooth", "dreambooth-lora"])
def test_what_the_model_predicted_is_what_it_keeps(name):
    """The prior's loss, by prediction: 0 and flat before the first step, and then the distance to
    what a model that learned nothing predicts of the same noised pictures."""
    alone, stage, fresh = (teaching(name, 3.0) for _ in range(3))
    alone.prior = None
    weights = [weight for weight in stage.network.parameters() if weight.requires_grad]
    losses = [one.loss(0, range(3)) for one in (alone, stage)]
    assert abs(float((losses[1] - losses[0]).detach())) < 1e-6
    losses[1].backward()
    losses[0].backward()
    others = [weight for weight in alone.network.parameters() if weight.requires_grad]
    assert max((a.grad - b.grad).abs().max() for a, b in zip(weights, others, strict=True)) < 1e-5
    assert all(weight.grad is None for weight in stage.before.parameters())
    with torch.no_grad():
        for one in (alone, stage):
            moving = [weight for weight in one.network.parameters() if weight.requires_grad]
            for i, weight in enumerate(moving):
                weight += 0.2 * torch.randn(weight.shape, generator=torch_rng(5, i))
        prior = float(stage.loss(0, range(3)) - alone.loss(0, range(3)))
        drawn = [fresh._sample(rng(0, 0, i, lessons.OLD), fresh.prior) for i in range(3)]
        z, tokens, t, eps = (torch.stack(column) for column in zip(*drawn, strict=True))
        signal = stage.ab[t].sqrt().float().reshape(-1, 1, 1, 1)
        noise = (1 - stage.ab[t]).sqrt().float().reshape(-1, 1, 1, 1)
        x_t = signal * z * stage.scale + noise * eps
        seen = [
            one.network["unet"](x_t, t - 1, one.network["text"](tokens).context)
            for one in (stage, fresh)
        ]
        each = ((seen[0] - seen[1]) ** 2).mean((1, 2, 3)) * stage.weight[t]
    assert prior > 1e-3 and abs(prior - 3 * float(each.mean())) < 1e-3 * prior


def test_another_prior_target_is_refused(capsys):
    with pytest.raises(SystemExit):
        run("train", "lora", "--prior-target", "nothing")
    assert "choose from" in capsys.readouterr().err
    with pytest.raises(ValueError, match="one of prediction, data, got 'nothing'"):
        lessons.teaching("lora", TINY, prior_target="nothing")


def test_the_command_has_the_lessons_targets_and_weight():
    parser = argparse.ArgumentParser()
    train_options(parser)
    usual = parser.parse_args([])
    assert (usual.prior, usual.prior_target) == (None, lessons.TARGETS[0])
    told = re.search(r"without it \((.+?)\)", " ".join(parser.format_help().split()))[1]
    weights = {name: lesson.prior_weight for name, lesson in LESSONS.items() if lesson.prior}
    assert told == f"{weights['lora']:g}; dreambooth-lora {weights['dreambooth-lora']:g}"
    assert weights["dreambooth"] == weights["lora"]
    for target in lessons.TARGETS:
        assert parser.parse_args(["--prior-target", target]).prior_target == target
    assert f"are {lessons.OWN} pictures" in " ".join(parser.format_help().split())


def test_no_training_replaces_what_another_has_learned(tmp_path):
    """Two lessons have the same word, and each a file of its own."""
    paths = [path for name in train.SETTINGS if (path := train.result(name, tmp_path))]
    assert len({*paths}) == len(paths) >= len(LESSONS)
    assert not {*paths} & {tmp_path / f"{name}.safetensors" for name in train.SETTINGS}


# ---- the commands -------------------------------------------------------------------------


def short(monkeypatch, name):
    lesson = LESSONS[name]
    lesson = lesson._replace(pictures=2, prior=min(lesson.prior, 2), places=min(lesson.places, 2))
    monkeypatch.setitem(lessons.LESSONS, name, lesson)
    monkeypatch.setitem(train.SETTINGS, name, Settings(1, 2, 1e-2, 0, 0.5, 0.5))
    return lesson


KEPT = lessons.own_pictures


def run(*words):
    return main([str(word) for word in words])


HOW = ("--steps", "2", "--zoom", "1", "--quiet")


def test_dreambooth_as_in_its_paper_learns_from_what_the_model_paints(tmp_path, monkeypatch):
    """With the data as its target the prior's pictures are the model's own."""
    short(monkeypatch, "dreambooth")
    own = []
    monkeypatch.setattr(
        lessons, "own_pictures", lambda pipe, texts, seed: own.extend(texts) or KEPT(pipe, texts)
    )
    monkeypatch.chdir(tmp_path)
    assert run("train", "dreambooth", "--prior-target", "data", "--prior", "1") == 0
    assert len(own) == 2
    assert run("train", "dreambooth", "--folder", "other") == 0
    assert len(own) == 2


@pytest.mark.parametrize("name", LESSONS)
def test_a_training_leaves_its_kind_of_file(name, tmp_path, monkeypatch, capsys):
    lesson = short(monkeypatch, name)
    monkeypatch.chdir(tmp_path)
    assert run("train", name) == 0
    path = train.result(name, tmp_path / "runs")
    assert path.stem.startswith(lesson.word.replace(" ", "-"))
    assert capsys.readouterr().out.strip() == str(path.relative_to(tmp_path))
    option = {"word": "--embedding", "dreambooth": "--checkpoint"}.get(name, "--lora")
    prompt = "a red moon" if name == "lora" else f"a {lesson.word} on white"
    assert run(prompt, option, path, *HOW, "--out", "a.png") == 0
    assert "never told" not in capsys.readouterr().err
    assert run("again", "a.png", "--out", "b.png", "--quiet") == 0
    if name == "dreambooth":
        before, after = load(TINY), load(path)
        assert not torch.equal(
            before.unet.input_blocks[0][0].weight, after.unet.input_blocks[0][0].weight
        )
        assert torch.equal(before.vae.quant_conv.weight, after.vae.quant_conv.weight)
        return
    kwargs = {"embeddings": [path]} if name == "word" else {"loras": [(path, 1)]}
    taught, plain = Pipeline.load(TINY, **kwargs), Pipeline.load(TINY)
    new, old = (p.txt2img("a red ring", steps=2).pictures() for p in (taught, plain))
    # A word changes no prompt without it, but for rounding.
    assert ((new - old).abs().max() < 1e-4) == (name == "word")
    if name == "word":
        assert run("train", name) == 0
        assert "was there before, and is replaced" in capsys.readouterr().err


def test_a_word_in_a_prompt(tmp_path, monkeypatch, capsys):
    short(monkeypatch, "word")
    monkeypatch.chdir(tmp_path)
    assert run("train", "word") == 0
    path = tmp_path / "runs" / "sun.safetensors"
    pipe = Pipeline.load(TINY, embeddings=path)
    assert pipe.warnings("a SUN on white") == [] and pipe.warnings("a moon")
    (tokenizer,) = pipe.tokenizers
    assert (
        tokenizer.encode("a sun")[-1] == configs.TINY_TEXT.vocabulary
        and len(tokenizer.encode("sunny")) > 1
    )
    assert tokenizer.decode(tokenizer("a sun above a sun")[0]) == "a sun above a sun"
    assert run("a sun on blue", "--embedding", path, *HOW, "--steps", 1) == 0
    assert "'blue' is a color of things alone" in capsys.readouterr().err
    assert run("a sun", "--embedding", path, "--embedding", path, *HOW) == 1
    assert "the tokenizer has 'sun' already" in capsys.readouterr().err
    path.rename(tmp_path / "red.safetensors")
    assert run("a sun", "--embedding", "red.safetensors", *HOW) == 1
    assert "has 'red' already: give the new word another name" in capsys.readouterr().err
    assert run("a sun", "--embedding", "no.safetensors", *HOW) == 1
    assert "--embedding: there is no file no.safetensors" in capsys.readouterr().err
    (tmp_path / "red.safetensors").rename("sun.safetensors")
    assert run("a sun", "--embedding", "sun.safetensors", *HOW, "--out", "a.png") == 0
    vectors = load_file("sun.safetensors")["emb_params"]
    save_embedding("sun.safetensors", {"text": vectors + 1})
    assert run("again", "a.png") == 1
    assert "sun.safetensors is not what it was" in capsys.readouterr().err
    assert run("info", "sun.safetensors") == 0
    assert "the word 'sun', 1 vector of width 128, for no published" in capsys.readouterr().out
    assert run("x", "--checkpoint", "sun.safetensors") == 1
    assert "by --embedding or Pipeline.load" in capsys.readouterr().err


def test_a_negative_prior_is_refused(capsys):
    with pytest.raises(SystemExit):
        run("train", "lora", "--prior", "-1")
    assert "must be a number from 0" in capsys.readouterr().err

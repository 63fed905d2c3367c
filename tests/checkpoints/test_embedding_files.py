"""Textual inversions: a word from a file in every layout, as diffusers loads it; and refusals."""

from dataclasses import replace

import diffusers_keys as keys
import pytest
import torch
from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin
from network_pairs import clip_settings, difference, draw, randomise
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from minisd.checkpoints import CheckpointError, open_embedding, save_embedding, with_embeddings
from minisd.checkpoints.embedding import describe_embedding
from minisd.checkpoints.families import FAMILIES
from minisd.checkpoints.loading import Checkpoint
from minisd.models.words import add_words, embed_with_words, token_embedding, with_words
from minisd.text.tokenizer import Tokenizer, train_merges

MERGES = train_merges(["a red circle above a blue star", "a photo of fur"], 40)
OURS = Tokenizer(MERGES)
SD1, SDXL = (FAMILIES[name].parts for name in ("sd1", "sdxl"))


def small(part, width=32):
    """A family's text encoder with random weights, narrow, for MERGES."""
    config = replace(part.config, width=width, layers=2, heads=4, vocabulary=len(OURS.vocabulary))
    config = replace(config, projection=16) if config.projection else config
    module = part.module(config)
    randomise(module)
    return module.eval()


class Theirs(TextualInversionLoaderMixin):
    """What diffusers' pipelines have for textual inversion, and nothing else."""

    hf_device_map, components = None, {}

    def __init__(self, text, clip):
        self.tokenizer = CLIPTokenizer(vocab=OURS.ids, merges=list(OURS.ranks))
        kind = CLIPTextModel if clip else CLIPTextModelWithProjection
        self.text_encoder = kind(clip_settings(text.config)).eval()
        renamed = (
            {key.removeprefix("text_model."): value for key, value in text.state_dict().items()}
            if clip
            else keys.openclip_weights(text.state_dict())
        )
        self.text_encoder.load_state_dict(renamed)

    def __call__(self, prompt):
        prompt = self.maybe_convert_prompt(prompt, self.tokenizer)
        ids = self.tokenizer(
            prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            return ids, self.text_encoder(ids, output_hidden_states=True)


@pytest.mark.parametrize("count", [1, 3])
def test_as_diffusers_loads_it(tmp_path, count):
    """The same ids and the same context, for a word of one vector and of several."""
    text, vectors = small(SD1["text"]), draw(count, 32, seed=count)
    theirs = Theirs(text, clip=True)
    theirs.load_textual_inversion({"<cat>": vectors})
    save_file({"<cat>": vectors}, tmp_path / "cat.safetensors")
    file = open_embedding(tmp_path / "cat.safetensors")
    assert (file.word, file.count) == ("<cat>", count)
    taught = with_embeddings(Checkpoint("sd1", text=text), [file]).text
    tokenizer = OURS.adding(file.word, file.count)
    for prompt in ("a photo of <cat> fur", "<cat>", "a red circle", "<cat> above a blue <cat>"):
        ids, out = theirs(prompt)
        assert torch.equal(tokenizer([prompt]), ids), prompt
        with torch.no_grad():
            ours = taught(ids)
        assert difference(ours.context, out.last_hidden_state) < 1e-5
        assert difference(ours.pooled, out.pooler_output) < 1e-5


def test_two_files_make_two_words_and_xl_has_two_encoders(tmp_path):
    texts = {"text": small(SDXL["text"], 32), "text_2": small(SDXL["text_2"], 48)}
    vectors = {"text": draw(2, 32, seed=1), "text_2": draw(2, 48, seed=2)}
    save_embedding(tmp_path / "cat.safetensors", vectors)
    save_embedding(tmp_path / "dog.safetensors", {k: v[:1] + 1 for k, v in vectors.items()})
    assert {*load_file(tmp_path / "cat.safetensors")} == {"clip_l", "clip_g"}
    files = [open_embedding(tmp_path / f"{word}.safetensors") for word in ("cat", "dog")]
    taught = with_embeddings(Checkpoint("sdxl", **texts), files)
    tokenizer = OURS
    for file in files:
        tokenizer = tokenizer.adding(file.word, file.count)
    prompt = "a red cat above a dog"
    for name, text in texts.items():
        rows = torch.cat([vectors[name], vectors[name][:1] + 1])
        assert torch.equal(token_embedding(getattr(taught, name))[-3:], rows)
        assert getattr(taught, name).config.words == 3
        with torch.no_grad():
            new, old = (
                m(tokenizer([prompt])) for m in (getattr(taught, name), with_words(text, rows))
            )
        assert all(difference(a, b) < 1e-5 for a, b in zip(new, old, strict=True))
    refiner = Checkpoint("sdxl-refiner", text=texts["text_2"])
    assert token_embedding(with_embeddings(refiner, files).text)[-1].equal(vectors["text_2"][0] + 1)


@pytest.mark.parametrize("part", [SD1["text"], SDXL["text_2"]], ids=["CLIP", "OpenCLIP"])
def test_a_word_is_one_more_row_and_the_end_token_stays_the_end(part):
    """A new row that copies a token's is that token, in the pooled vector too: there the end token
    has the largest number but for the new one."""
    text, ids = small(part), OURS(["a photo of a red star"])
    there = OURS.ids["red</w>"]
    taught = with_words(text, token_embedding(text)[there : there + 1].detach())
    new = torch.where(ids == there, len(OURS.vocabulary), ids)
    assert (new != ids).sum() == 1
    with torch.no_grad():
        for a, b, c in zip(text(ids), taught(new), taught(ids), strict=True):
            assert difference(a, b) < 1e-5 and difference(a, c) < 1e-5
    with pytest.raises(ValueError, match="tokens must be from 0 to"):
        text(new)


def test_only_the_new_rows_learn():
    text = small(SD1["text"])
    table = token_embedding(text).detach().clone()
    vectors = add_words(text, draw(2, 32))
    assert [name for name, w in text.named_parameters() if w.requires_grad] == [
        "text_model.embeddings.token_embedding.vectors"
    ]
    ids = OURS.adding("cat", 2)(["a cat", "a red cat"])
    text(ids).context.square().sum().backward()
    assert vectors.grad.abs().sum() > 0
    assert torch.equal(text.text_model.embeddings.token_embedding.layer.weight, table)
    by_hand = torch.stack([(table if i < len(table) else vectors)[i % len(table)] for i in ids[0]])
    assert torch.equal(embed_with_words(ids, table, vectors)[0], by_hand)
    with pytest.raises(ValueError, match="words in training already"):
        add_words(text, draw(1, 32))


def refused(tmp_path, tensors, word="cat"):
    path = tmp_path / f"{word}.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as told:
        file = open_embedding(path)
        with_embeddings(Checkpoint("sd1", text=small(SD1["text"])), [file])
    return str(told.value)


@pytest.mark.parametrize(
    "tensors, says",
    [
        (
            {"emb_params": torch.zeros(1, 768)},
            "width 768, and the text encoders of this sd1 have 32",
        ),
        ({"emb_params": torch.zeros(1, 768)}, "it is made for sd1"),
        ({"emb_params": torch.zeros(1, 1024)}, "it is made for sd2"),
        ({"emb_params": torch.zeros(1, 7)}, "no published family has that"),
        (
            {"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)},
            "width 768 and 1280, and the text encoders of this sd1 have 32: it is made for sdxl",
        ),
        ({"clip_l": torch.zeros(2, 32), "clip_g": torch.zeros(1, 48)}, "as many for each"),
        ({"emb_params": torch.zeros(1, 2, 32)}, r"must hold vectors (k, width)"),
        ({"emb_params": torch.zeros(0, 32)}, r"must hold vectors (k, width)"),
        ({"emb_params": torch.zeros(1, 32, dtype=torch.int64)}, "must hold vectors"),
        ({"emb_params": torch.full((1, 32), torch.nan)}, "NaN"),
        ({"emb_params": torch.zeros(1, 32), "clip_l": torch.zeros(1, 32)}, "a word is one tensor"),
        ({"lora_unet_a.lora_up.weight": torch.zeros(2, 2)}, "but a LoRA, a change to the weights"),
    ],
)
def test_what_does_not_serve_gets_one_sentence(tmp_path, tensors, says):
    assert says in refused(tmp_path, tensors)


def test_a_file_is_described(tmp_path):
    save_embedding(tmp_path / "cat.safetensors", {"text": torch.zeros(2, 768)})
    told = describe_embedding(tmp_path / "cat.safetensors")
    assert told == "the word 'cat', 2 vectors of width 768, for sd1"
    save_file({"dog": torch.zeros(1024)}, tmp_path / "x.safetensors")
    told = describe_embedding(tmp_path / "x.safetensors")
    assert told == "the word 'dog', 1 vector of width 1024, for sd2"

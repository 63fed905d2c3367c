"""BERT's tokens against transformers' tokenizer, made from our vocabulary."""

import gzip
import hashlib
import unicodedata
from importlib.resources import files

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokenizer import DIRTY, MIXED, SIMPLE
from transformers import BertTokenizer

from minisd.checkpoints.families import FAMILIES, on_meta
from minisd.models import configs
from minisd.models.bert import BERTText
from minisd.pipeline.conditioning import prompt_warnings, tokenizer_for
from minisd.text.wordpiece import WordPiece

BERT = WordPiece.bert()
SPECIAL = ["[MASK]", "a [SEP] b", "[CLS]", "x[PAD]y", "[sep]", "[UNK", "a[MASK]b [unused5]"]

MOVED = "\u166d\u1734\u1885\u1886"  # to another class since: Python follows, tokenizers does not


@pytest.fixture(scope="module")
def theirs():
    return BertTokenizer(vocab=BERT.ids)


def test_the_vocabulary_is_the_published_one():
    data = gzip.decompress((files("minisd.text") / "merges" / "bert.txt.gz").read_bytes())
    digest = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
    assert hashlib.sha256(data).hexdigest() == digest and len(set(BERT.vocabulary)) == 30_522


def test_well_known_ids():
    assert BERT("hello world")[0, :5].tolist() == [101, 7592, 2088, 102, 0]
    assert BERT.tokens("a photograph of an axolotl")[-3:] == ["ax", "##olo", "##tl"]
    assert (BERT.start, BERT.end, BERT.pad, BERT.length) == (101, 102, 0, 77)


def test_equal_to_transformers_row_by_row(theirs):
    texts = [*SIMPLE, *DIRTY, *MIXED, *SPECIAL]
    rows = theirs(
        texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    for text, ours, other in zip(texts, BERT(texts), rows, strict=True):
        assert torch.equal(ours, other), text


def settled(c):
    """Characters that Unicode 3.2 knew: both libraries' tables have them."""
    return unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Cs", "Co") and c not in MOVED


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cn", "Cs", "Co"]).filter(settled), max_size=30))
def test_equal_to_transformers_on_any_text(theirs, text):
    assert BERT.encode(text) == theirs(text, add_special_tokens=False).input_ids


def test_every_character_between_two_letters(theirs):
    """But for most of the Chinese and Korean ones, which are all alike."""
    numbers = [
        *range(0x4E80),
        *range(0x9F00, 0xAC80),
        *range(0xD780, 0x20100),
        *range(0x2A600, 0x30000),
    ]
    texts = [f"a{chr(i)}b" for i in numbers if settled(chr(i))]
    rows = theirs(texts, add_special_tokens=False).input_ids
    wrong = [text for text, row in zip(texts, rows, strict=True) if BERT.encode(text) != row]
    assert len(texts) > 20_000 and not wrong


@pytest.mark.parametrize("text", ["a red fox's den, 3.5 km", "Ünïcode 中国", "x" * 101, ""])
def test_words_point_at_their_tokens(text):
    row = BERT(text)[0].tolist()
    for word, places in BERT.words(text):
        assert [BERT.ids[piece] for piece in BERT.tokens(word)] == [row[i] for i in places]


def test_decoding_and_what_is_cut():
    assert BERT.decode(BERT("A photograph of an Axolotl!")[0]) == "a photograph of an axolotl !"
    assert BERT.truncated("cat " * 75) == "" and BERT.truncated("cat " * 75 + "dogs") == "dogs"
    assert prompt_warnings("cat " * 80, [BERT])[0].endswith("'cat cat cat cat cat'")


def test_a_published_encoder_gets_it():
    text = on_meta(FAMILIES["ldm-txt2img"].parts["text"])
    assert tokenizer_for(text).ids == BERT.ids
    assert tokenizer_for(text)("a cat").shape == (1, text.config.length)
    assert tokenizer_for(BERTText(configs.TINY_TEXT)) is None


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: BERT([]), "no prompt"),
        (lambda: BERT([3]), "a prompt is a string, got int"),
        (lambda: BERT.decode([30_522]), "ids must be from 0 to 30521, got 30522"),
        (lambda: BERT.decode([[1]]), "one row"),
        (lambda: WordPiece(["[PAD]", "[CLS]", "[SEP]", "a"]), r"\[UNK\], .* among them"),
        (lambda: WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "a"]), "each piece once"),
        (lambda: WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]"], 1), "room for start and end"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()

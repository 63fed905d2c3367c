"""CLIP's tokens against transformers' tokenizer, made from our table; the trainer by hand."""

import gzip
import hashlib
import random
import unicodedata
from importlib.resources import files
from itertools import pairwise

import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from minisd.text.tokenizer import END, START, Tokenizer, clean, merge, split, train_merges
from minisd.tiny.shapes import COLORS, SHAPES

CLIP, ZERO = Tokenizer.clip(), Tokenizer.clip(pad=0)
CAPTIONS = [f"a {color} {shape} next to a grey ring" for color in COLORS for shape in SHAPES]
# fmt: off
SIMPLE = [  # needs no cleaning but NFC, spaces and lower case: the libraries agree
    "", " ", "cat", "A Photo Of A CAT", "a cat,a dog;a fox", "wait... what?!", "100% $5 #1 a@b.c",
    "it's", "we're they've I'm she'll he'd don't", "IT'S WE'RE", "rock'n'roll", "'tis 's", "''s",
    "2024", "3.14", "1,000,000", "½ cup", "x² + y³", "Ⅷ Ⅳ", "٣٤٥", "〇一二三", "8k 4K", "f/1.8",
    "😀", "a 😀b", "👩‍👩‍👧", "🇫🇷", "☃️ ❤️", "→ ↑", "♯♭", "™®©", "°C", "№ 5",
    "日本の猫", "一只猫坐在椅子上", "한국어", "Привет, мир", "مرحبا", "हिन्दी", "ไทย", "Ελλάδα",
    "café", "cafe\u0301", "Ångström", "A\u030angstro\u0308m", "naïve", "STRASSE Straße", "ñandú",
    "İstanbul", "a\tb\nc\r\nd", "  two  spaces  ", "a\u00a0b", "a\u2028b", "zero\u200bwidth", "ſ",
    "_", "__init__", "snake_case", "a-b", "--", "(((masked)))", "[x:y:0.5]", "<lora:x>", "\\ / |",
    "antidisestablishmentarianism", "x" * 300, "hello" * 40, "pneumono" * 9 + "!", "é" * 99,
    "word " * 500, "a cat " * 37 + "s", "a cat " * 37 + "sat on", "a cat " * 38, "!" * 99, "1" * 99,
    "greg rutkowski, trending on artstation", END, f"a {END} b", f"{START} x", "<|other|>",
]
# fmt: on
DIRTY = {  # what OpenAI's cleaning (html.unescape, ftfy 6.3) makes of it; transformers 5 does not
    "a dog’s “big” day": 'a dog\'s "big" day',
    "‘a’ ‚b‛ „c‟ ʼd": "'a' 'b' \"c\" 'd",
    "fish &amp; chips": "fish & chips",
    "fish &amp;amp; chips": "fish & chips",
    "&lt;b&gt; caf&eacute; &quot;&#39;&#x41;": "<b> café \"'a",
    "&ldquo;hi&rdquo; &hellip;": '"hi" …',
    "a&nbsp;b\u3000c": "a b c",
    "ＡＢＣ１２！": "abc12!",
    "ﬁne ﬂow eﬃcient": "fine flow efficient",
    "ĳs ŉ ǆ": "ijs 'n dž",
    "a\x00b\x07c\x1fd": "abcd",
    "a\x0bb \ufeffc": "ab c",
    "ΟΔΟΣ": "οδος",  # Python knows the final sigma
}
RULES = {  # other tokens for the same clean text: OpenAI's are
    # the end token counts only where a word begins
    f"wow!{END}": ["wow</w>", "!", "<", "|</w>", "endof", "text</w>", "|", "></w>"],
    # the endings are found whatever their case, and a long s is an s: this is 's, one word
    "'ſ": ["'", "Å", "¿</w>"],
}
SHORT = [text for text in [*SIMPLE, *DIRTY] if 0 < len(text) < 40 and "|" not in text]
DRAW = random.Random(0)
MIXED = [DRAW.choice(["", " ", ", "]).join(DRAW.choices(SHORT, k=5)) for _ in range(300)]


@pytest.fixture(scope="module")
def theirs():
    return CLIPTokenizer(vocab=CLIP.ids, merges=list(CLIP.ranks))


def bare(theirs, text):
    return theirs(text, add_special_tokens=False).input_ids


# ---- CLIP ---------------------------------------------------------------------------------


def test_the_table_is_the_published_one():
    data = gzip.decompress((files("minisd.text") / "merges" / "clip.txt.gz").read_bytes())
    digest = "d308b7377a8ceaa9707a21614fe8c831b9196e197b7aeb69833359362907af02"
    assert hashlib.sha256(data).hexdigest() == digest
    assert len(CLIP.ranks) == 48_894 and len(set(CLIP.vocabulary)) == 49_408
    assert [CLIP.ids[piece] for piece in (START, END, "!", "a</w>")] == [49406, 49407, 0, 320]


def test_well_known_ids():
    """The numbers of the CLIP paper's own notebook and of every tutorial since."""
    assert CLIP.encode("hello world") == [3306, 1002]
    assert CLIP.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert CLIP("A diagram.")[0, :6].tolist() == [49406, 320, 22697, 269, 49407, 49407]
    assert ZERO("a diagram")[0, :6].tolist() == [49406, 320, 22697, 49407, 0, 0]


def test_equal_to_transformers_row_by_row(theirs):
    texts = [*SIMPLE, *CAPTIONS, " ".join(CAPTIONS * 2)]
    rows = theirs(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    ours = CLIP(texts)
    assert ours.dtype == torch.int64 and ours.shape == (len(texts), 77)
    assert [t for t, a, b in zip(texts, ours, rows.input_ids, strict=True) if (a != b).any()] == []
    zero = torch.where(rows.attention_mask.bool(), rows.input_ids, 0)
    assert torch.equal(ZERO(texts), zero)


def test_equal_to_transformers_after_cleaning(theirs):
    assert [t for t in MIXED if CLIP.encode(t) != bare(theirs, clean(t))] == []


@pytest.mark.parametrize("text", DIRTY, ids=ascii)
def test_cleaning_is_openais_where_transformers_does_none(text, theirs):
    assert clean(text) == DIRTY[text]
    assert CLIP.encode(text) == bare(theirs, DIRTY[text]) != bare(theirs, text)


@pytest.mark.parametrize("text", RULES, ids=ascii)
def test_words_are_openais_where_transformers_has_others(text, theirs):
    assert CLIP.tokens(text) == RULES[text]
    assert CLIP.encode(text) != bare(theirs, clean(text))


def test_every_character_falls_into_its_class():
    """The pattern that needs \\p{L} and \\p{N}, run by the Rust library that has them."""
    old = unicodedata.ucd_3_2_0.category  # those that any library's Unicode knows
    characters = [c for c in map(chr, range(0x110000)) if old(c) not in ("Cn", "Cs", "Co")]
    text = "".join(c + c for c in characters if not "\x1c" <= c <= "\x1f")  # spaces to str only
    pattern = tokenizers.Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    rust = tokenizers.pre_tokenizers.Split(pattern, "removed", invert=True)
    assert split(text) == [piece for piece, _ in rust.pre_tokenize_str(text)]


def test_a_lone_surrogate_is_no_crash():
    assert clean("a\ud83db \ud83d\ude00") == "a\ufffdb 😀"


# ---- what a notebook shows ----------------------------------------------------------------


def test_steps_apply_one_merge_each_in_the_order_learned():
    for word in ("lower", "Photograph", "aaaa", "😀", "a"):
        steps = CLIP.steps(word)
        assert steps[-1] == CLIP.tokens(word) and len("".join(steps[0])) == len("".join(steps[-1]))
        ranks = []
        for before, after in pairwise(steps):
            pair = next(p for p in pairwise(before) if merge(before, p) == after)
            ranks.append(CLIP.ranks[pair])
        assert ranks == sorted(ranks)
    assert CLIP.steps(END) == [[END]]
    assert CLIP.steps("cat") == [["c", "a", "t</w>"], ["c", "at</w>"], ["cat</w>"]]


@pytest.mark.parametrize("text", [*SHORT, "a cat " * 37 + "indistinguishable ends", "word " * 99])
def test_words_point_at_their_tokens(text):
    row, placed = CLIP(text)[0], CLIP.words(text)
    inner = range(1, row.tolist().index(CLIP.end))
    assert [i for _, positions in placed for i in positions] == list(inner)
    assert [word for word, _ in placed] == split(clean(text))[: len(placed)]
    for word, positions in placed[:-1] if CLIP.truncated(text) else placed:
        assert CLIP.decode(row[positions]) == word


def test_what_is_cut_is_told():
    text = "a cat " * 37 + "sat on a mat"
    assert CLIP.truncated("a cat " * 37 + "sat") == "" == CLIP.truncated("")
    assert CLIP.truncated(text) == "on a mat"
    row = CLIP(text)[0]
    assert row[0] == CLIP.start and row[-1] == CLIP.end and CLIP.end not in row[:-1]
    assert f"{CLIP.decode(row)} {CLIP.truncated(text)}" == text


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=15))
def test_decoding_undoes_encoding_but_for_spaces(text):
    assert CLIP.decode(ZERO(text)[0]) == " ".join(split(clean(text)))


def test_half_a_character_decodes_to_a_mark():
    assert CLIP.decode(CLIP.encode("🜁")[:1]) == "\ufffd"


def test_ignored_signs_are_spaces():
    plain, deaf = (Tokenizer([("a", "b</w>")], 9, ignored=signs) for signs in ("", ",-"))
    assert deaf.encode("ab,-ab-a,") == plain.encode("ab ab a") != plain.encode("ab,-ab-a,")
    assert deaf.words("ab, ab") == plain.words("ab ab")


# ---- the trainer --------------------------------------------------------------------------


def test_training_by_hand():
    """low 5, lower 2, newest 6, widest 3: the example of 1508.07909, Algorithm 1."""
    text = "low " * 5 + "lower " * 2 + "newest " * 6 + "widest " * 3
    assert train_merges([text], 6) == [
        ("e", "s"),  # 9, as often as s t: the first in the alphabet
        ("es", "t</w>"),  # 9
        ("l", "o"),  # 7
        ("e", "w"),  # 6, as often as n e and w est
        ("ew", "est</w>"),  # 6
        ("n", "ewest</w>"),  # 6
    ]


def test_training_as_the_rust_library_does():
    """Its ties fall otherwise, so the texts are such that no two pairs are equally frequent."""
    words = {"abcd": 97, "bce": 31, "cdcd": 13, "eae": 5}
    texts = [f"{word} " * times for word, times in words.items()]
    ours = train_merges(texts, 5)
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1000, end_of_word_suffix="</w>", show_progress=False
    )
    theirs.train_from_iterator(texts, trainer)
    made = sorted((i, piece) for piece, i in theirs.get_vocab().items())
    made = [piece for _, piece in made if len(piece.removesuffix("</w>")) > 1]
    assert made[:5] == ["".join(pair) for pair in ours]


def test_training_is_blind_to_order_and_ends_with_whole_words():
    merges = train_merges(CAPTIONS, 500)
    assert merges == train_merges(reversed(CAPTIONS), 500)
    assert len(merges) < 500 and train_merges(CAPTIONS, 20) == merges[:20]
    tiny = Tokenizer(merges, length=12)
    assert all(len(tiny.encode(text)) == len(text.split()) for text in CAPTIONS)
    assert train_merges([f"aa {END}"], 3) == [("a", "a</w>")] and train_merges([], 3) == []


def test_a_small_vocabulary_agrees_with_transformers():
    tiny = Tokenizer(train_merges(CAPTIONS, 30), length=16, pad=7)
    assert len(tiny.vocabulary) == 544 and (tiny.start, tiny.end) == (542, 543)
    theirs = CLIPTokenizer(vocab=tiny.ids, merges=list(tiny.ranks))
    texts = [*CAPTIONS, "a zebra", "", "😀", "next to next"]
    assert [tiny.encode(t) for t in texts] == [bare(theirs, t) for t in texts]
    rows = tiny(texts)
    assert rows.shape == (len(texts), 16) and rows[-3].tolist() == [542, 543] + 14 * [7]
    assert "".join(tiny.decode(rows[-4]).split()) == "azebra"


# ---- what bad input is told ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CLIP(5), "a prompt is a string, got int"),
        (lambda: CLIP(["a", None]), "a prompt is a string, got NoneType"),
        (lambda: CLIP([]), "no prompt: pass a string or a list of at least one"),
        (lambda: CLIP.encode(b"a"), "a prompt is a string, got bytes"),
        (lambda: CLIP.decode([49408]), "ids must be from 0 to 49407, got 49408"),
        (lambda: CLIP.decode(torch.tensor([-1])), "ids must be from 0 to 49407, got -1"),
        (lambda: CLIP.decode(CLIP("a")), r"decode reads one row of ids, got \(1, 77\)"),
        (lambda: CLIP.steps("two words"), "steps shows one word, but 'two words' splits into"),
        (lambda: CLIP.steps(" "), r"steps shows one word, but ' ' splits into \[\]"),
        (lambda: Tokenizer.clip(pad=49408), "pad must be from 0 to 49407, got 49408"),
        (lambda: Tokenizer([], length=1), "length must leave room for start and end, got 1"),
        (lambda: Tokenizer([("a", "bc")]), "a merge is a pair of bytes, or of what other merges"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()

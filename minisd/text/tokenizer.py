"""CLIP's byte-pair encoding: a prompt becomes words, words become bytes, bytes grow into tokens.

A token is a string of symbols, one for each byte; "</w>" closes a word. A merge (left, right) joins
two neighbouring tokens, and the merges, in the order in which they were learned, are all there is.
"""

import copy
import gzip
import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from itertools import pairwise

import torch
from torch import Tensor

START, END = "<|startoftext|>", "<|endoftext|>"
FIXED = re.compile(rf"{re.escape(START)}|{re.escape(END)}|'(?:s|t|re|ve|m|ll|d)", re.IGNORECASE)
STRAIGHT = str.maketrans("\u02bc‘’‚‛“”„‟", "'" * 5 + '"' * 4)
WIDE = re.compile("[\uff01-\uffefﬀ-ﬆĲĳŉǄ-ǌǱ-ǳ]")  # full- and half-width forms, ligatures
CONTROL = re.compile("[\0-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]")
PUNCTUATION = ',.;:!?"()'
Merge = tuple[str, str]


# ---- text to words ------------------------------------------------------------------------


def clean(text: str) -> str:
    """What OpenAI's code does to a prompt first: repair characters, join spaces, lower the case.

    HTML entities are resolved twice; curly quotes become straight, full-width letters and ligatures
    plain; control characters go; accents are composed (NFC). OpenAI leaves all but the entities to
    the package ftfy: this is the part of it that prompts meet. What ftfy also does, and this does
    not: mend text decoded by the wrong table ("cafÃ©"), keep "&ldquo;" curly beside a "<".
    """
    if not isinstance(text, str):
        raise ValueError(f"a prompt is a string, got {type(text).__name__}")
    text = html.unescape(html.unescape(text))
    text = WIDE.sub(lambda wide: unicodedata.normalize("NFKC", wide[0]), text).translate(STRAIGHT)
    text = CONTROL.sub("", text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return " ".join(unicodedata.normalize("NFC", text).split()).lower()


def _kind(character: str) -> str:
    if character.isalpha():
        return "letter"
    if unicodedata.category(character)[0] == "N":
        return "number"
    return "space" if character.isspace() else "other"


def split(text: str) -> list[str]:
    """Clean text to words: runs of letters, single digits, runs of anything else but spaces.

    English endings ('s, 't, 're, 've, 'm, 'll, 'd) are words, and so are the start and end token.
    This is CLIP's pattern 's|'t|...|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+, which re cannot say.
    """
    words, i = [], 0
    while i < len(text):
        kind, fixed, j = _kind(text[i]), FIXED.match(text, i), i + 1
        while not fixed and kind != "number" and j < len(text) and _kind(text[j]) == kind:
            j += 1
        j = fixed.end() if fixed else j
        if kind != "space":
            words.append(text[i:j])
        i = j
    return words


# ---- words to tokens ----------------------------------------------------------------------


def byte_symbols() -> dict[int, str]:
    """A visible character for each of the 256 bytes, in the order of the vocabulary.

    The 188 visible ones of Latin-1 stand for themselves, the other 68 are chr(256), chr(257), ...
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def spell(word: str, symbols: dict[int, str]) -> list[str]:
    """A word as its bytes' symbols, the last one closed: "cat" -> ["c", "a", "t</w>"]."""
    spelled = [symbols[byte] for byte in word.encode()]
    return [*spelled[:-1], spelled[-1] + "</w>"]


def merge(pieces: Sequence[str], pair: Merge) -> list[str]:
    """Join each occurrence of the pair, from left to right."""
    joined, i = [], 0
    while i < len(pieces):
        j = i + 2 if tuple(pieces[i : i + 2]) == pair else i + 1
        joined.append("".join(pieces[i:j]))
        i = j
    return joined


def train_merges(texts: Iterable[str], n: int) -> list[Merge]:
    """Byte-pair encoding (1508.07909 Alg. 1): n times, join the most frequent neighbours.

    texts: captions, cleaned and split here. Of equally frequent pairs the first in the alphabet is
    taken. Fewer than n merges come back once every word is one token.
    """
    counts = Counter(word for text in texts for word in split(clean(text)))
    symbols = byte_symbols()
    words = {word: spell(word, symbols) for word in counts if word not in (START, END)}
    merges = []
    while len(merges) < n:
        pairs = Counter()
        for word, pieces in words.items():
            for pair in pairwise(pieces):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {word: merge(pieces, best) for word, pieces in words.items()}
    return merges


class Rows:
    """Prompts to rows of token ids and back, whatever the tokens are.

    A row is the start token, the prompt's, the end token, and the pad up to length. A kind of
    tokenizer says how a text is cut into words, a word into pieces of the vocabulary, and how
    pieces are put together again: `_words`, `_pieces`, `_joined`.
    """

    def __init__(self, vocabulary: list[str], start: str, end: str, pad: int, length: int):
        if length < 2:
            raise ValueError(f"length must leave room for start and end, got {length}")
        self.vocabulary, self.length, self.pad = vocabulary, length, pad
        self.ids = {piece: i for i, piece in enumerate(vocabulary)}
        self.start, self.end = self.ids[start], self.ids[end]
        self.added: dict[str, list[str]] = {}
        self._check([pad], "pad")

    def adding(self, word: str, count: int = 1) -> "Rows":
        """A tokenizer that knows one word more, of `count` tokens; their ids come after all others.

        They are called word, word_1, ..., as diffusers calls them. In a prompt the word must stand
        by itself; capitals do not matter. ValueError for a word that is one token already.
        """
        word = word.strip().lower()
        if not word or len(word.split()) > 1:
            raise ValueError(f"a new word must be one word, got {word!r:.60}")
        if word in self.added or len(self.encode(word)) == 1:
            raise ValueError(
                f"the tokenizer has {word!r:.60} already: give the new word another name"
            )
        pieces = [word, *(f"{word}_{i}" for i in range(1, count))]
        if twice := [piece for piece in pieces if piece in self.ids]:
            raise ValueError(f"the tokenizer has a token {twice[0]!r:.60} already")
        more = copy.copy(self)
        more.vocabulary = [*self.vocabulary, *pieces]
        more.ids = {piece: i for i, piece in enumerate(more.vocabulary)}
        more.added = self.added | {word: pieces}
        return more

    def _cut(self, text: str) -> list[tuple[str, list[str]]]:
        """The prompt's words with their tokens. Words that were added are found first."""
        if not self.added or not isinstance(text, str):
            return [(word, self._pieces(word)) for word in self._words(text)]
        names = "|".join(map(re.escape, sorted(self.added, key=len, reverse=True)))
        parts = re.split(rf"(?<!\w)({names})(?!\w)", text, flags=re.IGNORECASE)
        found = []
        for i, part in enumerate(parts):
            if i % 2:
                found.append((part.lower(), self.added[part.lower()]))
            else:
                found += [(word, self._pieces(word)) for word in self._words(part)]
        return found

    def _check(self, ids: Sequence[int], name: str) -> None:
        for i in ids:
            if not 0 <= i < len(self.vocabulary):
                raise ValueError(f"{name} must be from 0 to {len(self.vocabulary) - 1}, got {i}")

    def tokens(self, text: str) -> list[str]:
        """The prompt's tokens as strings, without start and end: CLIP's "cats" -> ["cats</w>"]."""
        return [piece for _, pieces in self._cut(text) for piece in pieces]

    def encode(self, text: str) -> list[int]:
        """The prompt's ids, however many, without start, end and padding."""
        return [self.ids[piece] for piece in self.tokens(text)]

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """A prompt or a list of b prompts -> ids (b, length), int64; what is too long is cut.

        The end token is kept; `truncated` says what is lost.
        """
        texts = texts if isinstance(texts, (list, tuple)) else [texts]
        if not texts:
            raise ValueError("no prompt: pass a string or a list of at least one")
        rows = [[self.start, *self.encode(text)[: self.length - 2], self.end] for text in texts]
        return torch.tensor([row + [self.pad] * (self.length - len(row)) for row in rows])

    def truncated(self, text: str) -> str:
        """The end of the prompt that does not fit into a row, "" if all does."""
        return self.decode(self.encode(text)[self.length - 2 :])

    def words(self, text: str) -> list[tuple[str, list[int]]]:
        """Each word of the prompt with its tokens' positions in the row, as far as they fit."""
        placed, i = [], 1
        for word, pieces in self._cut(text):
            j = i + len(pieces)
            placed.append((word, list(range(i, min(j, self.length - 1)))))
            i = j
        return [(word, positions) for word, positions in placed if positions]

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Ids -> the clean prompt; a row is read from start to end.

        ValueError for ids outside the vocabulary, or for more rows than one.
        """
        ids = torch.as_tensor(ids)
        if ids.ndim != 1:
            raise ValueError(f"decode reads one row of ids, got {tuple(ids.shape)}")
        ids = ids.tolist()
        self._check(ids, "ids")
        ids = ids[: ids.index(self.end)] if self.end in ids else ids
        pieces = [self.vocabulary[i] for i in ids if i != self.start]
        first = {tokens[0]: word for word, tokens in self.added.items()}
        rest = {piece for tokens in self.added.values() for piece in tokens[1:]}
        said = [[]]
        for piece in pieces:
            if piece in first:
                said += [first[piece], []]
            elif piece not in rest:
                said[-1].append(piece)
        texts = [part if isinstance(part, str) else self._joined(part) for part in said]
        return " ".join(filter(None, texts))


class Tokenizer(Rows):
    """Byte-pair encoding, for any list of merges.

    The vocabulary is 256 bytes, the same 256 closing a word, one token per merge, start and end:
    CLIP's 49,408. pad: the end token by default (SD 1; SDXL's first encoder), 0 for SD 2 and SDXL's
    second. ignored: punctuation that is not read, as if a space stood there.
    """

    def __init__(
        self, merges: Sequence[Merge], length: int = 77, pad: int | None = None, ignored: str = ""
    ):
        self.symbols = byte_symbols()
        pieces = [s + close for close in ("", "</w>") for s in self.symbols.values()]
        pieces += ["".join(pair) for pair in merges]
        vocabulary = [*dict.fromkeys(pieces), START, END]
        super().__init__(
            vocabulary, START, END, len(vocabulary) - 1 if pad is None else pad, length
        )
        self.ignored = ignored
        self.ranks = {tuple(pair): i for i, pair in enumerate(merges)}
        self._bytes = {symbol: byte for byte, symbol in self.symbols.items()}
        self._known: dict[str, list[str]] = {}
        if any(len(pair) != 2 or not set(pair) <= self.ids.keys() for pair in self.ranks):
            raise ValueError("a merge is a pair of bytes, or of what other merges make of them")

    @classmethod
    def clip(cls, pad: int = 49407) -> "Tokenizer":
        """CLIP's own, of the 48,894 merges that ship with minisd (merges/README.md)."""
        table = gzip.decompress((files("minisd.text") / "merges" / "clip.txt.gz").read_bytes())
        return cls([tuple(line.split(" ")) for line in table.decode().splitlines()], pad=pad)

    def _words(self, text: str) -> list[str]:
        text = clean(text)
        return split(text.translate(str.maketrans(dict.fromkeys(self.ignored, " "))))

    def _merging(self, word: str) -> Iterator[list[str]]:
        pieces = [word] if word in (START, END) else spell(word, self.symbols)
        yield pieces
        while pairs := [pair for pair in pairwise(pieces) if pair in self.ranks]:
            pieces = merge(pieces, min(pairs, key=self.ranks.__getitem__))
            yield pieces

    def _pieces(self, word: str) -> list[str]:
        if word not in self._known:
            for pieces in self._merging(word):
                self._known[word] = pieces
        return self._known[word]

    def steps(self, word: str) -> list[list[str]]:
        """A word's pieces from its bytes to its tokens, merge by merge, the earliest learned first.

        ValueError if the text splits into more words than one, or none.
        """
        words = self._words(word)
        if len(words) != 1:
            raise ValueError(f"steps shows one word, but {word!r} splits into {words}")
        return list(self._merging(words[0]))

    def _joined(self, pieces: list[str]) -> str:
        """Words with spaces between them; bytes that are no character become "\\ufffd"."""
        joined = "".join(pieces).replace("</w>", " ")
        data = (b" " if c == " " else bytes([self._bytes[c]]) for c in joined)
        return b"".join(data).decode(errors="replace").strip()

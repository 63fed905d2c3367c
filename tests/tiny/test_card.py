"""What the tiny model's card and the notebooks say of it in numbers, against the files it is of.

New weights make every such number stale, and prose is not run: so what can be read again is.
"""

import json
import re
from pathlib import Path

from minisd.checkpoints import load
from minisd.models.lora import add_lora
from minisd.tiny import lessons
from minisd.tiny.weights import TINY

CARD = (TINY.parent / "README.md").read_text()
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def measured(name: str):
    return json.loads((TINY.parent / f"{name}.json").read_text())


def rows(first: str) -> list[list[str]]:
    """The rows of the card's table whose first line begins so, cell by cell."""
    lines = CARD[CARD.index(f"\n{first}") + 1 :].split("\n\n")[0].split("\n")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def prose(name: str) -> str:
    """All Markdown of a notebook."""
    (path,) = NOTEBOOKS.glob(f"{name}_*.ipynb")
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def test_the_samples_of_the_training():
    legs = [re.match(r"([\d,]+) of (\d+)", row[2]).groups() for row in rows("| leg | world")]
    samples = sum(int(steps.replace(",", "")) * int(batch) for steps, batch in legs)
    assert f"{samples / 1e6:.1f} million samples in all" in CARD
    assert f"the shipped model has seen {samples / 1e6:.1f} million" in prose("13")
    words = {2: "two", 3: "three", 4: "four", 5: "five"}
    assert f"has seen more than {words[int(samples // 1e6)]} million" in prose("21")


def test_the_parameters():
    whole = load(TINY, "tiny")
    for row, part in zip(rows("| part | class"), (whole.unet, whole.vae, whole.text), strict=True):
        assert row[2] == f"{sum(weight.numel() for weight in part.parameters()):,}"


def test_what_the_lora_lesson_trains():
    whole, trained = load(TINY, "tiny"), 0
    for network, layers in ((whole.unet, lessons.LAYERS), (whole.text, lessons.TEXT_LAYERS)):
        add_lora(network, lessons.LESSONS["lora"].rank, layers)
        trained += sum(w.numel() for w in network.parameters() if w.requires_grad)
    assert f"({trained:,} numbers" in CARD and f"It trains {trained:,} numbers" in prose("19")


def test_the_table_of_few_calls():
    shares = {}
    for row in measured("fast")["rows"]:
        if row["split"] == "seen":
            shares.setdefault((row["calls"], row["way"]), []).append(100 * row["right"] / row["n"])
    for calls, *cells in rows("| calls | with the LoRA"):
        for way, cell in zip(("distilled", "Euler a", "DDIM"), cells, strict=True):
            assert cell == " / ".join(f"{share:g}" for share in shares[int(calls), way])


def test_the_table_of_solvers():
    told = {
        (row["solver"], row["budget"]): f"{100 * row['one']:.0f} / {100 * row['two']:.0f}"
        for row in measured("solvers")
        if (row["grid"], row["scale"]) == ("trailing", 2.0)
    }
    for solver, *cells in rows("| | 4 | 6 |"):
        for calls, cell in zip((4, 6, 8, 20), cells, strict=True):
            assert cell == told[solver, calls], (solver, calls)


def test_the_table_of_lessons():
    models = measured("lessons")["models"]
    names = {
        "one thing": "one thing",
        "two things": "two things",
        "three things": "three things",
        "things alike": "things alike",
        "a circle, DreamBooth's class": "a circle",
        "new, alone": "the new word, 1",
        "new, and a second thing": "the new word, 2",
        "new, alone, green or purple": "the new word held out, 1",
        "the same, and a second thing": "the new word held out, 2",
    }
    order = ("before", "LoRA", "word", "no prior", "eq. 2", "DreamBooth", "its LoRA")
    assert tuple(models) == order
    for kind, *cells in rows("| captions | before | LoRA"):
        for model, cell in zip(order, cells, strict=True):
            share = models[model].get(names[kind])
            assert cell in ("", "as before") if share is None else cell == f"{100 * share:g}"


def test_what_is_said_of_the_lessons():
    """README and notebook 19, of what was learned: their sentences, with the table's numbers."""
    models = measured("lessons")["models"]

    def shares(model, *kinds):
        return [f"{100 * models[model][kind]:g}" for kind in kinds]

    readme = (NOTEBOOKS.parent / "README.md").read_text().replace("\n", " ")
    for model, sentence in {
        "word": "({} % of captions are right alone, {} % beside a second thing)",
        "LoRA": "Of the captions of a moon {} % are right alone and {} % beside a second thing",
        "DreamBooth": "of those of the five pictures' crescent {} % and {} %",
        "its LoRA": "by its LoRA {} % and {} %",
    }.items():
        assert sentence.format(*shares(model, "the new word, 1", "the new word, 2")) in readme
    new = shares("LoRA", "the new word, 1", "the new word held out, 1")
    said = "{} % of 200 captions of a moon alone are correct, and {} % where the scene has it in"
    assert said.format(*new) in prose("19")
    old = "one thing", "two things", "three things", "things alike"
    for model in ("LoRA", "DreamBooth", "its LoRA"):
        pairs = zip(shares(model, *old), shares("before", *old), strict=True)
        said = "of one thing {} % are correct, where {} % were, of two {} ({}), of three {} ({})"
        said += ", of things alike {} ({})"
        assert said.format(*(share for pair in pairs for share in pair)) in prose("19")


def test_the_table_of_the_flow():
    told = {}
    for row in measured("flow")["rows"]:
        told.setdefault(row["model"], []).append(f"{100 * row['right'] / row['n']:.1f}")
    models = ("u", "v", "shipped", "untrained")
    assert rows("| u, as a flow |") == [[" / ".join(told[model]) for model in models]]


def test_the_tables_of_the_control_net():
    told = measured("control")
    assert [row[1:] for row in rows("| | wholly right | overlap")] == [
        [f"{100 * right:.0f}", f"{overlap:.2f}"] for right, overlap in told["led"].values()
    ]
    assert rows("| | 0 | 50 |") == [
        ["overlap", *(f"{share:.2f}" for share in told["overlap"])],
        [f"right, of {told['of']}", *map(str, told["right"])],
    ]


def test_how_many_times_fewer_parameters():
    """Notebook 13's sentence, against what its own cell prints."""
    (path,) = NOTEBOOKS.glob("13_*.ipynb")
    times = [int(n) for n in re.findall(r", (\d+) times as many", path.read_text())]
    least, most = map(int, re.search(r"and (\d+) to (\d+) times fewer", prose("13")).groups())
    assert len(times) == 3 and least <= min(times) and max(times) <= most
    assert most - max(times) < 10 > min(times) - least

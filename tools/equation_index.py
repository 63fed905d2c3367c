"""Write the index of equations, docs/EQUATIONS.md, from the docstrings: `make index`.

A public function is listed under every paper that the first words of its docstring name, as in
"DDPM eq. 15, DDIM eq. 9: ...", with the notebooks that show its source (or the first that calls
it) and the name after "Official:". --check writes nothing and exits 1 if the page is stale.
"""

import argparse
import importlib
import inspect
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "EQUATIONS.md"
HEAD = """<!-- `make index` writes this page from the docstrings: change those, not the page. -->

# Index of equations

From the number in the paper to the function, to the notebooks that derive it, and to the name that
the official code has for it.
"""
PAPERS = {  # the name docstrings use -> arXiv number, title
    "DDPM": ("2006.11239", "Denoising Diffusion Probabilistic Models"),
    "iDDPM": ("2102.09672", "Improved Denoising Diffusion Probabilistic Models"),
    "DDIM": ("2010.02502", "Denoising Diffusion Implicit Models"),
    "PNDM": ("2202.09778", "Pseudo Numerical Methods for Diffusion Models on Manifolds"),
    "CFG": ("2207.12598", "Classifier-Free Diffusion Guidance"),
    "Progressive Distillation": ("2202.00512", "Progressive Distillation for Fast Sampling"),
    "VDM": ("2107.00630", "Variational Diffusion Models"),
    "Min-SNR": ("2303.09556", "Efficient Diffusion Training via Min-SNR Weighting"),
    "Zero-SNR": ("2305.08891", "Common Diffusion Noise Schedules and Sample Steps are Flawed"),
    "Score SDE": ("2011.13456", "Score-Based Generative Modeling through SDEs"),
    "NCSN": ("1907.05600", "Generative Modeling by Estimating Gradients of the Data Distribution"),
    "ADM": ("2105.05233", "Diffusion Models Beat GANs on Image Synthesis"),
    "EDM": ("2206.00364", "Elucidating the Design Space of Diffusion-Based Generative Models"),
    "DPM-Solver": ("2206.00927", "DPM-Solver: A Fast ODE Solver in Around 10 Steps"),
    "DPM-Solver++": ("2211.01095", "DPM-Solver++: Fast Solver for Guided Sampling"),
    "DEIS": ("2204.13902", "Fast Sampling of Diffusion Models with Exponential Integrator"),
    "UniPC": ("2302.04867", "UniPC: A Unified Predictor-Corrector Framework"),
    "Consistency Models": ("2303.01469", "Consistency Models"),
    "LCM": ("2310.04378", "Latent Consistency Models"),
    "Restart": ("2306.14878", "Restart Sampling for Improving Generative Processes"),
    "Align Your Steps": ("2404.14507", "Align Your Steps: Optimizing Sampling Schedules"),
    "LoRA": ("2106.09685", "LoRA: Low-Rank Adaptation of Large Language Models"),
    "Textual Inversion": ("2208.01618", "An Image is Worth One Word: Textual Inversion"),
    "DreamBooth": ("2208.12242", "DreamBooth: Fine Tuning for Subject-Driven Generation"),
    "Beta sampling": ("2407.12173", "Beta Sampling is All You Need"),
    "ControlNet": ("2302.05543", "Adding Conditional Control to Text-to-Image Diffusion Models"),
    "VQGAN": ("2012.09841", "Taming Transformers for High-Resolution Image Synthesis"),
    "LPIPS": ("1801.03924", "The Unreasonable Effectiveness of Deep Features"),
    "Flow Matching": ("2210.02747", "Flow Matching for Generative Modeling"),
    "Rectified Flow": ("2209.03003", "Flow Straight and Fast: Rectified Flow"),
    "Stochastic Interpolants": ("2303.08797", "Stochastic Interpolants: Flows and Diffusions"),
    "SD 3": ("2403.03206", "Scaling Rectified Flow Transformers for Image Synthesis"),
    "FID": ("1706.08500", "GANs Trained by a Two Time-Scale Update Rule"),
}
MODULES = [
    "schedules", "clocks", "equations.ddpm", "equations.ddim", "equations.pndm",
    "equations.velocity", "equations.guidance", "equations.edm", "equations.dpm_solver",
    "equations.first_stage", "equations.distillation", "equations.consistency", "equations.score",
    "equations.flow",
    "samplers", "guidance", "losses", "models.lora", "models.words", "models.controlnet",
]  # fmt: skip


def functions():
    """(shown name, file, function) of every public function, in the order of the source."""
    for name in MODULES:
        module = importlib.import_module(f"minisd.{name}")
        here = [f for f in vars(module).values() if callable(f) and not inspect.isclass(f)]
        here = [f for f in here if getattr(f, "__module__", "") == module.__name__]
        for function in sorted(here, key=lambda f: inspect.getsourcelines(f)[1]):
            if not function.__name__.startswith("_"):
                short = name.split(".")[0]
                file = pathlib.Path(inspect.getsourcefile(inspect.unwrap(function)))
                yield f"{short}.{function.__name__}", file.relative_to(ROOT), function


def citations(function) -> dict[str, str]:
    """{paper: where in it} from the docstring's first paragraph, as far as its first colon."""
    paragraph = " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())
    head = paragraph.partition(":")[0].rstrip(".")
    papers = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, PAPERS))}) ")
    if not papers.match(head):
        return {}
    found = list(papers.finditer(head))
    ends = [m.start() for m in found[1:]] + [len(head)]
    return {m[0][:-1]: head[m.end() : e].strip(" ,") for m, e in zip(found, ends, strict=True)}


def official(function) -> str:
    cited = re.search(r"Official: (.*?)(?:\n|$)", inspect.getdoc(function) or "")
    return cited[1].rstrip(".") if cited else ""


def notebooks() -> dict[str, str]:
    """notebook name -> its code, to look for show(...) in."""
    code = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        code[path.name] = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    return code


def shown_in(function, code: dict[str, str]) -> str:
    call = rf"show\([^)]*\b{function.__name__}\b"
    return ", ".join(
        f"[{name[:2]}](../notebooks/{name})" for name, text in code.items() if re.search(call, text)
    )


def used_in(function, code: dict[str, str]) -> str:
    """The first notebook that calls it, for what no notebook shows the source of."""
    call = rf"\b{function.__name__}\("
    found = [name for name, text in code.items() if re.search(call, text)]
    return f"[{found[0][:2]}](../notebooks/{found[0]})" if found else ""


def index() -> str:
    """The whole page."""
    code, rows = notebooks(), {paper: [] for paper in PAPERS}
    for shown, file, function in functions():
        for paper, where in citations(function).items():
            name = f"[`{shown}`](../{file.as_posix()})"
            where_read = shown_in(function, code) or used_in(function, code)
            rows[paper].append((where, name, where_read, official(function)))
    lines = [HEAD]
    for paper, (arxiv, title) in PAPERS.items():
        lines += [
            f"## {paper}",
            "",
            f"{title}, [arXiv {arxiv}](https://arxiv.org/abs/{arxiv})",
            "",
            "| in the paper | function | notebook | official code |",
            "|---|---|---|---|",
            *[f"| {' | '.join(row)} |" for row in sorted(rows[paper], key=order)],
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def order(row) -> int:
    """By the number of the equation; what has none comes after those, as the source has it."""
    number = re.search(r"\beqs?\. (\d+)", row[0])
    return int(number[1]) if number else 999


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if stale")
    check = parser.parse_args().check
    fresh = index()
    if PAGE.is_file() and PAGE.read_text() == fresh:
        return 0
    if check:
        print("docs/EQUATIONS.md is stale: run `make index`")
        return 1
    PAGE.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())

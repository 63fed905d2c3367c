"""Every solver on the tiny model, by the judge: pictures that are right, for a budget of calls.

    python benchmarks/solvers.py out.json                 # all solvers, trailing grid: an hour
    python benchmarks/solvers.py out.json --grids         # the best ones on every grid

Each budget is the number of times that the network is called for a picture, the guided pair of
predictions counted once. A solver takes as many steps as fit; the calls that it took stand beside
the result. Captions, seeds and noise are the same for all. What is there already is not run again.
"""

import argparse
import functools
import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from minisd import samplers
from minisd.noise import gaussian
from minisd.pipeline import Pipeline
from minisd.pipeline.menu import GRIDS
from minisd.prediction import Prediction
from minisd.samplers import last
from minisd.tiny import TINY
from minisd.tiny.fidelity import captions
from minisd.tiny.judge import judge

BUDGETS = (4, 6, 8, 10, 20)
SOLVERS = {
    "DDIM (Euler)": ("ddim", {}),
    "DDIM, eta 1 (Euler a)": ("ddim", {"eta": 1.0}),
    "PLMS": ("plms", {}),
    "S-PNDM": ("s_pndm", {}),
    "Heun": ("heun", {}),
    "DPM2": ("dpm_solver_2", {}),
    "DPM2 a": ("dpm_solver_2", {"eta": 1.0}),
    "DPM-Solver-3": ("dpm_solver_3", {}),
    "LMS": ("lms", {}),
    "DPM-Solver 2M": ("dpm_solver_multistep", {"order": 2}),
    "DEIS 3": ("deis", {"order": 3}),
    "DPM++ 2S": ("dpmpp_2s", {}),
    "DPM++ 2S a": ("dpmpp_2s", {"eta": 1.0}),
    "DPM++ SDE": ("dpmpp_sde", {}),
    "DPM++ 2M": ("dpmpp_2m", {}),
    "DPM++ 2M, exact weights": ("dpmpp_2m", {"published": False}),
    "DPM++ 3M": ("dpmpp_3m", {}),
    "DPM++ 3M, exact weights": ("dpmpp_3m", {"published": False}),
    "DPM++ 2M SDE": ("dpmpp_2m_sde", {}),
    "DPM++ 3M SDE": ("dpmpp_3m_sde", {}),
    "UniPC 2": ("unipc", {"order": 2}),
    "UniPC 3": ("unipc", {"order": 3}),
}
BEST = ("DDIM (Euler)", "DPM++ 2M", "UniPC 2", "DPM++ 2M SDE", "DPM++ SDE")


def grids(ab: torch.Tensor) -> dict[str, Callable[[int], list[float]]]:
    names = ("trailing", "sgm", "linspace", "karras", "exponential", "lambda", "uniform")
    return {
        name: functools.partial(GRIDS[name].times, ab) for name in (*names, "quadratic", "beta")
    }


def run(model, x, times, ab, solver: str):
    """x at the end, and the number of calls of the model."""
    name, own = SOLVERS[solver]
    sampler, calls = getattr(samplers, name), []
    if "noise" in inspect.signature(sampler).parameters:
        own = own | {"noise": gaussian(0)}

    def counted(x, t):
        calls.append(t)
        return model(x, t)

    return last(sampler(counted, x, times, ab, **own)).x, len(calls)


def steps_for(budget: int, solver: str, grid, ab) -> int:
    """The most steps whose calls fit into the budget."""
    x, best = torch.zeros(1, 1), 0
    v_model = lambda x, t: Prediction(x, 0 * x)  # noqa: E731
    for steps in range(1, budget + 2):
        try:
            calls = run(v_model, x, grid(steps), ab, solver)[1]
        except ValueError:  # a grid that needs two steps
            continue
        best = steps if calls <= budget else best
    return best


def main(args) -> None:
    path = Path(args.out)
    done = json.loads(path.read_text()) if path.exists() else []
    known = {(row["solver"], row["grid"], row["budget"], row["scale"]) for row in done}
    pipe = Pipeline.load(TINY)
    ab, made = pipe.ab, grids(pipe.ab)
    if args.grids:
        jobs = [(s, g, b) for b in (6, 8, 10) for g in made for s in BEST]
    else:
        jobs = [(s, "trailing", b) for b in args.budgets for s in args.solvers]
    texts = {n: captions(n, "seen", args.captions) for n in (1, 2)}
    told = {}
    for solver, grid, budget in jobs:
        if (solver, grid, budget, args.scale) in known:
            continue
        steps, start = steps_for(budget, solver, made[grid], ab), time.time()
        if not steps:
            continue
        right = {}
        for n, of in texts.items():
            good = 0
            for first in range(0, len(of), 50):
                part = of[first : first + 50]
                if (n, first) not in told:
                    given = {"scale": args.scale, "seed": first}
                    told[n, first] = pipe._told(part, pipe.size(None), given)
                given = told[n, first]
                noise = torch.Generator().manual_seed(1000 + first)
                x = torch.randn(pipe._empty(given, pipe.size(None)).shape, generator=noise)
                with torch.no_grad(), pipe.part("unet") as unet:
                    model = pipe.eps_model(unet, given)
                    x, calls = run(model, x, made[grid](steps), ab, solver)
                pictures = pipe.decode(x)
                good += sum(judge(*pair).right for pair in zip(pictures, part, strict=True))
            right[n] = good / len(of)
        row = {"solver": solver, "grid": grid, "budget": budget, "scale": args.scale}
        row |= {"steps": steps, "calls": calls, "captions": args.captions}
        row |= {"one": right[1], "two": right[2]}
        done.append(row)
        path.write_text("[\n" + ",\n".join(json.dumps(row) for row in done) + "\n]\n")
        print(row, f"{time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="a JSON file; it is added to")
    parser.add_argument("--grids", action="store_true", help="the best solvers on every grid")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS))
    parser.add_argument("--budgets", nargs="+", type=int, default=BUDGETS)
    parser.add_argument("--captions", type=int, default=100, help="of each kind (default 100)")
    parser.add_argument("--scale", type=float, default=2.0, help="guidance (default 2)")
    main(parser.parse_args())

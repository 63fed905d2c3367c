"""Audit the schedulers of the installed diffusers: what docs/AUDIT.md reports.

    python tools/audit.py                 every row of `table` on every grid, as Markdown
    python tools/audit.py DEIS Karras     the rows whose names hold all the words, in full
    python tools/audit.py --noise         those that draw noise: how wide their samples lie

The auditor (minisd.teaching.audit) is not told where to look: it runs what stands here. A scheduler
is queried at the σ of its own table, since those that round their Karras timesteps to whole numbers
query a network at the wrong time, which no solver can make good (`rounded` measures that apart).
For float64, the names float32 in the scheduler's module mean float64 while it runs: schedulers keep
their tables in float32, and some cast every sample to it.
"""

import argparse
import contextlib
import sys
import warnings
from itertools import product
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers.utils import is_scipy_available

from minisd.schedules import alpha_bar, scaled_linear_betas
from minisd.teaching.audit import Audit, audit, slope
from minisd.teaching.spread import spread

AB = alpha_bar(scaled_linear_betas())
SIGMAS = (1 / AB[1:] - 1).sqrt().numpy()
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
EDM = {"sigma_min": SIGMAS[0].item(), "sigma_max": SIGMAS[-1].item(), "sigma_data": 0.5}


class Wide:
    """A module in which float32 is float64."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        return getattr(self.module, "float64" if name == "float32" else name)


@contextlib.contextmanager
def precision(cls, dtype, noise=None):
    """While it is entered, cls computes in dtype, and draws by noise(x) where that is given."""
    module = sys.modules[cls.__module__]
    wide = {name: Wide(vars(module)[name]) for name in ("torch", "np") if name in vars(module)}
    instead = wide if dtype == torch.float64 else {}
    if noise:
        instead["randn_tensor"] = lambda shape, **how: noise(torch.zeros(shape, dtype=dtype))
    kept = torch.get_default_dtype()
    with mock.patch.multiple(module, **instead) if instead else contextlib.nullcontext():
        try:
            torch.set_default_dtype(dtype)
            yield
        finally:
            torch.set_default_dtype(kept)


def time_of(sigma) -> float:
    """The paper's t of a σ, log σ being linear between whole times; σ(1) stands for all below."""
    return float(np.interp(np.log(max(float(sigma), 1e-9)), np.log(SIGMAS), np.arange(1, 1001)))


def sigma_of(made, i, t):
    """The σ at which step i queries the network, None where the scheduler has no σ."""
    if not hasattr(made, "sigmas"):
        return None
    second = hasattr(made, "sigmas_interpol") and not made.state_in_first_order
    return (made.sigmas_interpol if second else made.sigmas)[i]


def solver(cls, rounded=False, step=None, **settings):
    """A scheduler as a black box; rounded: the network is given the scheduler's own timesteps."""
    edm = cls.__name__.startswith("EDM")

    def solve(model, x, n, noise=None):
        with precision(cls, x.dtype, noise), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            diffusers.logging.set_verbosity_error()
            made = cls(**(EDM if edm else SD), **settings)
            made.set_timesteps(n)
            if x.dtype == torch.float64 and hasattr(made, "set_begin_index"):
                made.set_begin_index(0)  # the order of the solver, though its first timestep repeat
            x = x.reshape(-1, 1, 1, 1) * made.init_noise_sigma  # some take pictures only
            for i, t in enumerate(made.timesteps):
                inside = made.scale_model_input(x, t)
                sigma = sigma_of(made, i, t)
                time = float(t) + 1 if rounded or sigma is None else time_of(sigma)
                if edm:
                    inside = x / (1 + sigma**2).sqrt()
                eps = model(inside.flatten(), time).reshape(x.shape)
                if edm:  # its network is F in D = c_skip x + c_out F
                    c_skip = 0.25 / (sigma**2 + 0.25)
                    eps = (x - sigma * eps - c_skip * x) / (sigma * c_skip.sqrt())
                x = made.step(eps, t, x, return_dict=False, **(step or {}))[0]
            ve = edm or made.init_noise_sigma != 1
            return (x / (1 + made.sigmas[-1] ** 2).sqrt() if ve else x).flatten()

    return solve


GRIDS = {
    "": {},
    "Karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    **({"beta": {"use_beta_sigmas": True}} if is_scipy_available() else {}),
    "lu": {"use_lu_lambdas": True},
}
SPACINGS = ("linspace", "leading", "trailing")


def table():
    """(name, class, claimed order, settings) of everything to audit."""
    plain = [("DDIM", 1), ("PNDM", 2), ("EulerDiscrete", 1), ("HeunDiscrete", 2)]
    plain += [("KDPM2Discrete", 2), ("LMSDiscrete", 4)]
    rows = [(name, name, order, {}) for name, order in plain]
    rows += [("PNDM with Runge-Kutta start", "PNDM", 2, {})]
    rows[1][3]["skip_prk_steps"] = True
    rows[0][3]["clip_sample"] = False
    for *_, own in (rows[0], rows[1], rows[-1]):  # as Stable Diffusion has them
        own |= {"set_alpha_to_one": False, "steps_offset": 1}
    for order, algorithm, kind, end in product(
        (1, 2, 3), ("dpmsolver++", "dpmsolver"), ("midpoint", "heun"), ("zero", "sigma_min")
    ):
        own = {"solver_order": order, "algorithm_type": algorithm, "solver_type": kind}
        own |= {"final_sigmas_type": end}
        for form in ("Multistep", "Singlestep"):
            unused = (order == 1 or form == "Multistep" and order == 3) and kind == "heun"
            if not unused and not (algorithm == "dpmsolver" and end == "zero"):
                name = f"DPMSolver{form} {algorithm} {order} {kind} {end}"
                rows.append((name, f"DPMSolver{form}", order, own))
        if algorithm == "dpmsolver++" and not (kind == "heun" and order != 2):
            name = f"EDMDPMSolverMultistep {order} {kind} {end}"
            rows += [(f"{name} {s}", "EDMDPMSolverMultistep", order, own | {"sigma_schedule": s})
                     for s in ("karras", "exponential")]  # fmt: skip
    rows += [(f"DEIS {p}", "DEISMultistep", p, {"solver_order": p}) for p in (1, 2, 3)]
    ends, kinds = ("zero", "sigma_min"), ("bh1", "bh2")
    rows += [(f"UniPC {p} {b} {end}", "UniPCMultistep", p,
              {"solver_order": p, "solver_type": b, "final_sigmas_type": end})
             for p, b, end in product((1, 2, 3, 4), kinds, ends)]  # fmt: skip
    rows += [(f"SASolver {p} {c} {a}", "SASolver", p,
              {"predictor_order": p, "corrector_order": c, "algorithm_type": a})
             for (p, c), a in product(((1, 1), (2, 2), (3, 3), (3, 4)),
                                      ("data_prediction", "noise_prediction"))]  # fmt: skip
    rows += [
        (f"EDMEuler {s}", "EDMEuler", 1, {"sigma_schedule": s}) for s in ("karras", "exponential")
    ]
    rows += [("TCD eta 0", "TCD", 1, {"original_inference_steps": 1000})]
    return rows


def audits(words=(), **how):
    """An Audit of every row on every grid that the scheduler takes, and that has all the words."""
    for name, cls, order, settings in table():
        cls = getattr(diffusers, f"{cls}Scheduler")
        if "dummy" in cls.__module__:  # it needs scipy, which is not installed
            continue
        accepts = cls.__init__.__wrapped__.__code__.co_varnames
        step = {"eta": 0.0} if name.startswith("TCD") else None
        extra = {"tau_func": lambda t: 0} if name.startswith("SASolver") else {}
        grids = [(g, s) for g, s in GRIDS.items() if set(s) <= set(accepts)]
        if "timestep_spacing" in accepts:
            grids = grids[1:] + [(s, {"timestep_spacing": s}) for s in SPACINGS]
        if " " in name and order != 2 and len(grids) > 3:  # a family is on all grids with order 2
            grids = [g for g in grids if g[0] in ("Karras", "exponential")]
        for grid, more in grids:
            full = f"{name} {grid}".strip()
            if all(word in full.split() or word in full for word in words):
                solve = solver(cls, step=step, **settings, **more, **extra)
                counts = {"counts": (25, 50, 100, 200)} if grid in SPACINGS else {}
                yield audit(solve, AB, full, order, **(counts | how))


def stochastic():
    """(name, weak order that its name suggests, solver) of the schedulers that draw noise."""
    exponential = {"use_exponential_sigmas": True}
    yield "EulerAncestral trailing", 1, solver(
        diffusers.EulerAncestralDiscreteScheduler, timestep_spacing="trailing")  # fmt: skip
    for order, kind in ((1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint")):
        own = {"solver_order": order, "solver_type": kind}
        for form in ("Multistep", "Singlestep"):
            for algorithm in ("sde-dpmsolver++", "sde-dpmsolver")[: 1 + (form == "Multistep")]:
                end = "zero" if "++" in algorithm else "sigma_min"
                yield f"DPMSolver{form} {algorithm} {order} {kind}", order, solver(
                    getattr(diffusers, f"DPMSolver{form}Scheduler"), algorithm_type=algorithm,
                    final_sigmas_type=end, **own, **exponential)  # fmt: skip
    for p, kind in product((1, 2, 3), ("data_prediction", "noise_prediction")):
        yield f"SASolver {p} {p} {kind}, τ = 1", p, solver(
            diffusers.SASolverScheduler, predictor_order=p, corrector_order=p, algorithm_type=kind,
            tau_func=lambda t: torch.ones((), dtype=torch.float64), **exponential)  # fmt: skip


def spreads(counts=(25, 50, 100, 200)):
    """A row of Markdown for each: the error of the standard deviation, and how it falls."""
    for name, _, solve in stochastic():
        try:
            errors = [spread(solve, AB, n) for n in counts]
            falls = slope(counts, [abs(error) for error in errors])
            yield f"| {name} | {' | '.join(f'{e:+.1e}' for e in errors)} | {falls:.2f} |"
        except Exception as error:
            yield f"| {name} | raises {type(error).__name__} |" + " |" * len(counts)


def row(found: Audit) -> str:
    calls = "/".join(map(str, (found.calls[0], found.counts[0])))
    numbers = f"{found.order:.2f} | {found.errors[0]:.1e} | {found.errors[-1]:.1e}"
    noise = f"{max(found.noise):.0e}"
    return f"| {found.name} | {calls} | {numbers} | {noise} | {' '.join(found.verdicts())} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--quick", action="store_true", help="fewer step counts")
    parser.add_argument("--noise", action="store_true", help="those that draw noise: spread")
    given = parser.parse_args()
    if given.noise:
        print(
            "| scheduler | 25 | 50 | 100 | 200 | weak order |",
            "|---|---|---|---|---|---|",
            sep="\n",
        )
        print(*spreads(), sep="\n")
        return
    if not given.words:
        print("| scheduler | calls/steps | order | first error | last error | float32 | verdicts |")
        print("|---|---|---|---|---|---|---|")
    how = {"every": (*range(1, 33), 50, 61, 99, 100)} if given.quick else {}
    for found in audits(given.words, **how):
        print(f"{found}\n" if given.words else row(found), flush=True)


if __name__ == "__main__":
    main()

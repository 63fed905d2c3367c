"""What a sampler's step costs beside the model's call: minisd against diffusers, in one process.

    python benchmarks/sampler_overhead.py [--rounds 15]

The model returns a tensor made beforehand, so what is timed is all sampler: one step of 50 on a
(3, 4, 64, 64) float32 latent. Rounds alternate between the two; the medians are reported.
diffusers' loop is its scheduler's step with return_dict=False and nothing else.
"""

import argparse
import statistics
import time

import diffusers
import torch

from minisd import samplers
from minisd.clocks import karras_times
from minisd.noise import gaussian
from minisd.samplers import ddim, ddpm, last, plms, pndm
from minisd.schedules import alpha_bar, ldm_uniform_times, leading_times, scaled_linear_betas

STEPS = 50
AB = alpha_bar(scaled_linear_betas())
X = torch.randn((3, 4, 64, 64), generator=torch.Generator().manual_seed(0))
EPS = torch.randn(X.shape, generator=torch.Generator().manual_seed(1)) * 0.1
SETTINGS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
MULTI = "DPMSolverMultistepScheduler"
SOLVERS = {  # ours, with its arguments, and theirs; diffusers counts every call of the model a step
    "Euler": ("euler", {}, ("EulerDiscreteScheduler", {})),
    "Heun": ("heun", {}, ("HeunDiscreteScheduler", {})),
    "DPM2": ("dpm_solver_2", {}, ("KDPM2DiscreteScheduler", {})),
    "DPM++ 2M": ("dpmpp_2m", {}, (MULTI, {})),
    "DPM++ 3M": ("dpmpp_3m", {}, (MULTI, {"solver_order": 3})),
    "2M SDE": ("dpmpp_2m_sde", {"eta": 1.0}, (MULTI, {"algorithm_type": "sde-dpmsolver++"})),
    "DEIS 3": ("deis", {}, ("DEISMultistepScheduler", {"solver_order": 3})),
    "UniPC 2": ("unipc", {}, ("UniPCMultistepScheduler", {})),
    "UniPC 3": ("unipc", {"order": 3}, ("UniPCMultistepScheduler", {"solver_order": 3})),
}
SD = {"steps_offset": 1, "set_alpha_to_one": False}


def theirs(scheduler, **arguments):
    def run():
        scheduler.set_timesteps(STEPS)
        x = X
        for t in scheduler.timesteps:
            scheduler.scale_model_input(x, t)
            x = scheduler.step(EPS, t, x, return_dict=False, **arguments)[0]

    return run


def ours(sampler, times, **arguments):
    return lambda: last(sampler(lambda x, t: EPS, X, times, AB, **arguments))


def median_times(runs: dict, rounds: int) -> dict[str, float]:
    """Microseconds a step for each run, the median over rounds that take turns."""
    taken = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken[name].append((time.perf_counter() - start) / STEPS * 1e6)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    sd, d = ldm_uniform_times(1000, STEPS), diffusers
    pairs = {
        "DDIM, eta 0": (
            ours(ddim, sd),
            theirs(d.DDIMScheduler(**SETTINGS, **SD, clip_sample=False)),
        ),
        "DDIM, eta 1": (
            ours(ddim, sd, eta=1.0, noise=gaussian(0)),
            theirs(d.DDIMScheduler(**SETTINGS, **SD, clip_sample=False), eta=1.0),
        ),
        "PLMS": (
            ours(plms, sd),
            theirs(d.PNDMScheduler(**SETTINGS, **SD, skip_prk_steps=True)),
        ),
        "F-PNDM": (
            ours(pndm, sd),
            theirs(d.PNDMScheduler(**SETTINGS, **SD, skip_prk_steps=False)),
        ),
        "DDPM": (
            ours(ddpm, leading_times(1000, STEPS), noise=gaussian(0)),
            theirs(d.DDPMScheduler(**SETTINGS, clip_sample=False)),
        ),
    }
    for name, (sampler, own, scheduler) in SOLVERS.items():
        noise = {"noise": gaussian(0)} if own.get("eta") else {}
        f = getattr(samplers, sampler)
        pairs[name] = (
            ours(f, karras_times(AB, STEPS), **own, **noise),
            theirs(getattr(d, scheduler[0])(**SETTINGS, use_karras_sigmas=True, **scheduler[1])),
        )
    print(f"median microseconds a step, {rounds} rounds, latent {tuple(X.shape)}, one thread")
    for name, (a, b) in pairs.items():
        for run in (a, b):
            run()  # warm up
        t = median_times({"minisd": a, "diffusers": b}, rounds)
        ratio = t["minisd"] / t["diffusers"]
        print(
            f"{name:12} minisd {t['minisd']:6.0f}   diffusers {t['diffusers']:6.0f}   {ratio:.2f}"
        )


if __name__ == "__main__":
    main()

"""Record what k-diffusion's samplers, grids and clock give: tests/test_solvers.py compares with it.

    python tools/record_k_diffusion.py FOLDER       a folder that holds k_diffusion, unzipped

k-diffusion is where most solvers were first written for sigmas, and it is no dependency of minisd:
so its numbers are recorded, in float64, with the inputs and the noise that they were made from.
scipy must be installed: LMS integrates with it, and the beta grid's quantiles are its own. What
else k-diffusion imports is a stub where it is missing, since no sampler here calls it.
"""

import argparse
import importlib
import json
import pathlib
import sys
import types
from unittest import mock

import scipy.stats
import torch
from torch import Tensor

OUT = pathlib.Path(__file__).resolve().parents[1] / "tests" / "data" / "k_diffusion.json"
UNCALLED = ["torchdiffeq", "torchsde", "torchvision", "torchvision.transforms", "PIL", "tqdm.auto"]
UNCALLED += ["dctorch", "einops"]

# The data: the mixture of tests/test_samplers.py, here as EDM's denoiser.
MEANS = torch.tensor([[2.0, 0.5, -1.0], [-1.0, 1.5, 0.0], [0.0, -2.0, 1.0]]).double()
STD, WEIGHTS = torch.tensor([[0.1, 0.5, 0.3], [0.5, 0.3, 0.2]], dtype=torch.float64)
# The schedule of SD 1, 2 and XL: sigma at its whole times 1..1000.
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
AB = (1 - BETAS).cumprod(0)
SIGMAS = ((1 - AB) / AB).sqrt()
ODD = [12.3, 6.1, 4.9, 1.7, 1.1, 0.35, 0.06, 0.0]

CHURN = {"s_churn": 2.0, "s_tmin": 0.3, "s_tmax": 10.0, "s_noise": 1.003}
MUCH = {"s_churn": 400.0, "s_tmin": 0.2, "s_tmax": 10.0}
ETAS = [{"eta": 0.0}, {"eta": 0.5}, {"eta": 1.0}]
CASES = {
    "euler": [{}, CHURN, MUCH],
    "heun": [{}, CHURN, MUCH],
    "euler_ancestral": ETAS,
    "dpm_2": [{}],
    "dpm_2_ancestral": ETAS,
    "lms": [{"order": order} for order in (1, 2, 3, 4)],
    "dpmpp_2s_ancestral": ETAS,
    "dpmpp_sde": ETAS,
    "dpmpp_2m": [{}],
    "dpmpp_2m_sde": [{**eta, "solver_type": of} for of in ("midpoint", "heun") for eta in ETAS],
    "dpmpp_3m_sde": ETAS,
}


def load(folder: str):
    """Three of k_diffusion's modules, past its __init__, which imports networks."""
    for name in UNCALLED:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = mock.MagicMock()
    package = types.ModuleType("k_diffusion")
    package.__path__ = [str(pathlib.Path(folder) / "k_diffusion")]
    sys.modules["k_diffusion"] = package
    names = ("sampling", "external", "layers")
    return [importlib.import_module(f"k_diffusion.{name}") for name in names]


def version(folder: str) -> str:
    """As the folder beside it says, k_diffusion-VERSION.dist-info."""
    return next(pathlib.Path(folder).glob("k_diffusion-*.dist-info")).name.split("-")[1][:-5]


def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x0 + sigma z]: component k says (sigma² m_k + s_k² x)/(s_k² + sigma²)."""
    sigma = sigma.reshape(-1, 1)
    var = STD**2 + sigma**2  # (b, k)
    square = ((x[:, None] - MEANS) ** 2).sum(2)
    share = (WEIGHTS.log() - square / (2 * var) - MEANS.shape[1] / 2 * var.log()).softmax(1)
    means = (sigma[..., None] ** 2 * MEANS + STD[:, None] ** 2 * x[:, None]) / var[..., None]
    return (share[..., None] * means).sum(1)


def sample(sampling, name: str, settings: dict, sigmas: Tensor, x_T: Tensor, noise: Tensor) -> dict:
    """One run from x_T √(1 + sigma²), as k-diffusion scales it. `x` is its result and `seen` its x
    before step `at`, the first in the second half that adds no churn."""
    drawn, seen = iter(noise), []
    draw = lambda *_: next(drawn)  # noqa: E731
    extra = {"callback": lambda state: seen.append(state["x"]), "disable": True}
    if name.endswith(("ancestral", "sde")):
        extra["noise_sampler"] = draw
    with mock.patch.object(torch, "randn_like", draw):
        x = getattr(sampling, f"sample_{name}")(
            denoiser, x_T * (1 + sigmas[0] ** 2).sqrt(), sigmas, **settings, **extra
        )
    low = settings.get("s_tmin", 0) if settings.get("s_churn") else float("inf")
    at = next(i for i in range((len(sigmas) - 1) // 2, len(sigmas) - 1) if sigmas[i] < low)
    return {"name": name, "settings": settings, "x": x, "at": at, "seen": seen[at]}


def recorded(folder: str) -> dict:
    """All that is recorded, as one dictionary."""
    torch.set_default_dtype(torch.float64)  # k-diffusion's grids take the default
    sampling, external, layers = load(folder)
    generator = torch.Generator().manual_seed(0)
    x_T, *noise = torch.randn(101, 4, 3, generator=generator, dtype=torch.float32).double()
    ends = SIGMAS[0].item(), SIGMAS[-1].item()
    ldm = [982 - 20 * i for i in range(50)] + [1]
    grids = {
        "karras": sampling.get_sigmas_karras(10, *ends),
        "ldm": SIGMAS[[t - 1 for t in ldm]],
        "odd": torch.tensor(ODD),
    }
    runs = [
        {"grid": grid, **sample(sampling, name, settings, sigmas, x_T, noise)}
        for grid, sigmas in grids.items()
        for name, cases in CASES.items()
        for settings in cases
    ]
    interpolated = external.DiscreteSchedule(SIGMAS, quantize=False)
    index = torch.tensor([0, 0.125, 0.5, 1.75, 10, 99.25, 321.5, 666.625, 998.875, 999])
    sigma = torch.tensor([0.02917, 0.03, 0.0417, 0.1, 0.25, 0.5, 1, 2.5, 7, 14, 14.61])
    return {
        "source": f"k-diffusion {version(folder)}; {made_with()}",
        "x_T": x_T,
        "noise": torch.stack(noise),
        "sigmas": grids,
        "runs": runs,
        "grids": {
            "karras": [sampling.get_sigmas_karras(n, *ends) for n in (1, 2, 5, 20)],
            "karras, rho 3": [sampling.get_sigmas_karras(n, *ends, rho=3) for n in (2, 5)],
            "exponential": [sampling.get_sigmas_exponential(n, *ends) for n in (1, 2, 5, 20)],
            "polyexponential, rho 2": [
                sampling.get_sigmas_polyexponential(n, *ends, rho=2) for n in (1, 2, 5, 20)
            ],
        },
        "t_to_sigma": {"index": index, "sigma": interpolated.t_to_sigma(index)},
        "sigma_to_t": {
            "sigma": sigma,
            "index": interpolated.sigma_to_t(sigma),
            "nearest": interpolated.sigma_to_t(sigma, quantize=True),
        },
        "scalings": {
            "sigma": sigma,
            "edm": layers.Denoiser(None, sigma_data=0.5).get_scalings(sigma),
            "eps": external.DiscreteEpsDDPMDenoiser(None, AB, False).get_scalings(sigma),
            "v": external.DiscreteVDDPMDenoiser(None, AB, False).get_scalings(sigma),
        },
        "beta quantiles": [
            {"a": a, "b": b, "p": p, "q": scipy.stats.beta.ppf(p, a, b)}
            for a, b in ((0.6, 0.6), (1.0, 1.0), (2.0, 0.5))
            for p in (0.0, 0.05, 0.25, 0.5, 0.9, 1.0)
        ],
    }


def made_with() -> str:
    return f"torch {torch.__version__.split('+')[0]}, scipy {scipy.__version__}, float64"


def plain(value):
    """Tensors as lists, for JSON, which keeps every digit of a float."""
    return value.tolist() if isinstance(value, Tensor) else list(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="holds k_diffusion/ and k_diffusion-VERSION.dist-info/")
    found = recorded(parser.parse_args().folder)
    lines = json.dumps(found, default=plain).replace(', {"grid"', ',\n{"grid"')
    OUT.write_text(lines + "\n")
    print(f"{OUT.name}: {len(found['runs'])} runs, {OUT.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()

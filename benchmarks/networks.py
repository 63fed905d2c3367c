"""Full-size networks of SD 1 on this machine: minisd against diffusers and transformers.

    python benchmarks/networks.py [unet] [vae] [text] [--dtype float32 bfloat16] [--rounds 3]
    python benchmarks/networks.py --plain           the layers as minisd/models has them
    python benchmarks/networks.py --compile         both sides by torch.compile
    python benchmarks/networks.py unet --device cuda --dtype float16 bfloat16    on a GPU

In float32 on a CPU minisd's layers have the forms that Networks gives them (pipeline/speed.py).

Both sides hold the very same random weights (one copy in memory) and get the same input, in one
process and in turns; outputs are compared. Reported: the median seconds of each, their ratio, and
for the U-Net the share of the speed that a large matrix product reaches in the same run.
"""

import argparse
import statistics
import time
from functools import partial

import diffusers
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from minisd.checkpoints.diffusers_names import table, to_diffusers
from minisd.models import configs
from minisd.models.autoencoder import AutoencoderKL
from minisd.models.clip import CLIPText
from minisd.models.unet import UNet
from minisd.pipeline.speed import quickened


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Every parameter drawn, so that no branch is zero: fan-in for matrices, near 1 for norms."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        std = 0.02 if "embedding" in name else fan_in**-0.5 if parameter.ndim > 1 else 0.02
        parameter.data.normal_(0, std, generator=generator)
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.data += 1
    return module.eval().requires_grad_(False)


def theirs_with(weights: torch.nn.Module, make) -> torch.nn.Module:
    """The other library's module, on the same memory as ours."""
    with torch.device("meta"):
        module = make()
    state = to_diffusers(weights.state_dict(), table(weights))
    wanted = module.state_dict()
    if not wanted.keys() <= state.keys():  # transformers 5 has no text_model. in its keys
        state = {key.removeprefix("text_model."): value for key, value in state.items()}
    state |= {key: torch.arange(77)[None] for key in wanted if key.endswith("position_ids")}
    module.load_state_dict({key: state[key] for key in wanted}, assign=True)
    for name, buffer in module.named_buffers():
        if buffer.is_meta:
            parent = module.get_submodule(name.rpartition(".")[0])
            parent.register_buffer(name.rpartition(".")[2], torch.arange(77)[None], False)
    return module.eval().requires_grad_(False)


def unet():
    draw = torch.Generator().manual_seed(1)
    x = torch.randn((2, 4, 64, 64), generator=draw)
    context = torch.randn((2, 77, 768), generator=draw)
    index = torch.tensor([981, 981])
    ours = randomised(UNet(configs.SD1))
    theirs = theirs_with(
        ours, lambda: diffusers.UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    )
    return ours, theirs, (x, index, context), lambda m, a: m(*a), lambda m, a: m(*a).sample


def vae():
    z = torch.randn((1, 4, 64, 64), generator=torch.Generator().manual_seed(1))
    ours = randomised(AutoencoderKL(configs.KL_F8))
    theirs = theirs_with(
        ours,
        lambda: diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        ),
    )
    return ours, theirs, (z,), lambda m, a: m.decode(*a), lambda m, a: m.decode(*a).sample


def text():
    tokens = torch.randint(0, 49405, (3, 77), generator=torch.Generator().manual_seed(1))
    tokens[:, 0], tokens[:, 40:] = 49406, 49407
    ours = randomised(CLIPText(configs.CLIP_L))
    config = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_attention_heads=12
    )
    config.eos_token_id, config.num_hidden_layers = 49407, 12
    theirs = theirs_with(ours, lambda: transformers.CLIPTextModel(config))
    return ours, theirs, (tokens,), lambda m, a: m(*a).context, lambda m, a: m(*a)[0]


def seconds(call, device: str) -> float:
    """What a call takes until it is done; a GPU answers before."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matrix_speed(dtype: torch.dtype, device: str) -> float:
    """TFLOP/s of a 4096-wide matrix product, the best of five."""
    a, b = (torch.randn(4096, 4096).to(device, dtype) for _ in range(2))
    return 2 * 4096**3 / min(seconds(lambda: a @ b, device) for _ in range(5)) / 1e12


@torch.inference_mode()
def compare(name: str, build, told: argparse.Namespace) -> None:
    device, rounds = told.device, told.rounds
    for dtype in (getattr(torch, d) for d in told.dtype):
        ours, theirs, arguments, run_ours, run_theirs = build()
        if dtype == torch.float32 and device == "cpu" and not told.plain:
            ours = quickened(ours)
        ours, theirs = ours.to(device, dtype), theirs.to(device, dtype)
        inputs = tuple(a.to(device, dtype if a.is_floating_point() else a.dtype) for a in arguments)
        with FlopCounterMode(display=False) as counter:
            b = run_theirs(theirs, inputs)
        if told.compile:
            for module in (ours, theirs):  # the VAE is called by its decode
                inner = module.decoder if name == "vae" else module
                inner.compile()
            start = time.perf_counter()
            run_theirs(theirs, inputs)
            middle = time.perf_counter()
            run_ours(ours, inputs)
            first = time.perf_counter() - middle, middle - start
            print(f"{name:5} the first call: minisd {first[0]:.0f} s, other {first[1]:.0f} s")
        a, b = run_ours(ours, inputs), run_theirs(theirs, inputs)
        gap = float((a - b).abs().max() / b.abs().max())
        taken = {"ours": [], "theirs": []}
        for _ in range(rounds):
            for side, run, module in (("ours", run_ours, ours), ("theirs", run_theirs, theirs)):
                taken[side].append(seconds(partial(run, module, inputs), device))
        mine, other = (statistics.median(taken[side]) for side in ("ours", "theirs"))
        flop = counter.get_total_flops() / 1e12
        speed = matrix_speed(dtype, device)
        print(
            f"{name:5} {str(dtype)[6:]:9} minisd {mine:7.3f} s, other {other:7.3f} s, "
            f"ratio {mine / other:.3f}; {flop:.2f} TFLOP at {flop / mine / speed:.0%} and "
            f"{flop / other / speed:.0%} of a matrix product's speed; outputs differ by {gap:.1e} "
            "of the largest",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="unet, vae, text; all by default")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    builds = {"unet": unet, "vae": vae, "text": text}
    unknown = set(arguments.parts) - builds.keys()
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are unet, vae, text")
    where = f"{torch.get_num_threads()} threads"
    if arguments.device == "cuda":
        where = torch.cuda.get_device_name()
    print(f"{where}, median of {arguments.rounds} rounds in turns")
    for name in arguments.parts or builds:
        compare(name, builds[name], arguments)


if __name__ == "__main__":
    main()

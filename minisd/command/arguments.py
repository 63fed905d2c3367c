"""What the command line may be told, and one sentence where it is told something else."""

import argparse
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from .. import __version__
from .tasks import TASKS
from .terminal import say
from .values import lora, number, side, whole_number

COMMANDS = {
    "txt2img": "a picture of a prompt; the name may be left out",
    "img2img": "repaint a picture as a prompt says",
    "inpaint": "repaint a part of a picture",
    "depth2img": "repaint a picture and keep its depths, with SD 2's model for that",
    "upscale": "a picture four times as large, with SD's model for that",
    "trajectory": "the way to a picture: x_t above, predicted x0 below",
    "again": "the picture that a PNG's own settings tell",
    "info": "what a checkpoint is, told from its headers",
}
GIVEN = {
    "img2img": ("picture",),
    "inpaint": ("picture", "mask"),
    "depth2img": ("picture", "depth"),
    "upscale": ("picture",),
    "again": ("picture",),
    "info": ("checkpoint",),
}
HELP = {
    "picture": "PNG, JPEG, ...",
    "mask": "white where it is painted anew; of a mask with transparent parts the bright strokes, "
    "or the holes where all else is dark",
    "depth": "a grey picture, near is bright",
    "checkpoint": ".safetensors file or diffusers folder",
}
# ours: those of the official scripts and of diffusers
THEIRS = """
--checkpoint: ckpt model model_id pretrained_model_name_or_path
--out: outdir output
--steps: ddim_steps num_inference_steps
--eta: ddim_eta
--scale: guidance_scale guidance cfg cfg_scale
--rescale: guidance_rescale
--negative: negative_prompt
--n: n_samples n_iter num_images_per_prompt num_images batch_size count
--size: h w height width
--sampler: scheduler sampler_name
--sampler plms: plms
--sampler dpmpp_2m: dpm dpm_solver
--grid: timestep_spacing schedule_type
--churn: s_churn
--dtype: precision torch_dtype
--level: noise_level
--embedding: embeddings textual_inversion
--lora: loras lora_weights
--control: control_image hint
--control-net: controlnet controlnet_model_name_or_path
--control-scale: controlnet_conditioning_scale"""
WORDS = {
    "prompt": "the prompt stands alone, in quotes",
    **dict.fromkeys(
        ("init_img", "init_image", "init", "image", "input", "picture"),
        'a picture stands alone, as in minisd img2img picture.png "a prompt"',
    ),
    **dict.fromkeys(
        ("mask", "mask_image"),
        'a mask stands alone, as in minisd inpaint picture.png mask.png "a prompt"',
    ),
}
ABOUT = ("minisd", "version", "torch", "model", "taken", "checkpoint bytes", "refiner bytes")
ABOUT += ("lora sha256", "embedding sha256", "fast sha256")
ABOUT += ("control sha256", "control_net bytes")
SAMPLERS = (  # pipeline.menu's, which cannot be imported as fast
    "ddim, plms, s_pndm, pndm, ddpm, euler, euler_a, heun, dpm2, dpm2_a, dpm3, lms, dpm_2m, deis, "
    "dpmpp_2s, dpmpp_2s_a, dpmpp_3s, dpmpp_sde, dpmpp_2m, dpmpp_3m, dpmpp_2m_sde, dpmpp_3m_sde, "
    "unipc, unipc_bh1, lcm, restart"
)
GRIDS = (
    "ldm, quad, leading, trailing, linspace, sgm, turbo, uniform, karras, exponential, "
    "polyexponential, lambda, quadratic, beta, ays"
)
EXAMPLES = """
  minisd "a small green star above a large yellow ring" --seed 3
  minisd "a circle" --negative red --n 4
  minisd "a circle" --fast
  minisd trajectory "a purple star on black" --out strip.png
  minisd img2img drawing.png "a blue cross on white" --strength 0.6
  minisd inpaint picture.png mask.png "a red ring"
  minisd "a fox in the snow" --checkpoint sd-v1-4.safetensors --sampler "DPM++ 2M Karras" --steps 20
  minisd "a fox" --checkpoint sd_xl_base_1.0.safetensors --refiner sd_xl_refiner_1.0.safetensors
  minisd "a fox" --checkpoint sd-v1-4.safetensors --lora paint.safetensors:0.8
  minisd "a red star" --control sketch.png --control-net runs/control-net.safetensors
  minisd "a photo of <fox>" --checkpoint sd-v1-4.safetensors --embedding fox.safetensors
  minisd info sd-v1-4.safetensors
  minisd again minisd.png
  minisd grade returned/ --out marks

Without --checkpoint the tiny model that comes with minisd paints: one to four coloured shapes.
minisd txt2img --help, and so on, lists the options of each."""


class Parser(argparse.ArgumentParser):
    """argparse without its lines of usage: a mistake is told in one sentence."""

    def error(self, message: str) -> NoReturn:
        """The sentence on stderr, and exit code 2."""
        self.exit(say(f"{message} ({self.prog} --help lists what there is)", 2))


def read(words: list[str]) -> argparse.Namespace:
    """A line's words as options; those without a command are txt2img's. SystemExit on a mistake."""
    words = ["--help"] if words == ["help"] else words
    given_name = not words or words[0] in (*COMMANDS, *TASKS, "-h", "--help", "--version")
    words = words if given_name else ["txt2img", *words]
    whole, commands = parsers()
    options, rest = whole.parse_known_args(words)
    if rest:
        command = commands[options.command]
        if odd := [word for word in rest if word.startswith("-")]:
            if odd[0].split("=")[0] in command._option_string_actions:
                command.error(f"{odd[0]} comes after --, where no option is read")
            command.error(f"there is no {odd[0]}" + meant_by(odd[0], command))
        meant = difflib.get_close_matches(words[1], [*COMMANDS, *TASKS], 1, 0.7)
        if options.command == "txt2img" and meant and not given_name:
            command.error(f"there is no command {words[1]}; {meant[0]}, perhaps?")
        more = repr(" ".join(rest))
        if options.command in TASKS or not hasattr(options, "prompt"):
            command.error(f"{more} is left over; what has no option stands together, in one place")
        command.error(f"{more} is left over: a prompt of several words goes in quotes")
    if options.command is None:
        whole.print_help()
        whole.exit(2)
    return options


def parsers() -> tuple[Parser, dict[str, Parser]]:
    """The whole, and each command's by its name; txt2img is the one that needs no name."""
    whole = Parser(
        prog="minisd",
        description="A picture from a sentence.",
        epilog=f"examples:{EXAMPLES}",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, 2, 14),
    )
    whole.add_argument("--version", action="version", version=f"minisd {__version__}")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND")
    model, how, size, control = _model(), _how(), _size(), _control()
    parents = {"again": [_out()], "info": [], "upscale": [how, size, model]}
    made = {
        name: commands.add_parser(
            name, parents=parents.get(name, [how, size, model, control]), help=said
        )
        for name, said in COMMANDS.items()
    }
    for name, command in made.items():
        for word in GIVEN.get(name, ()):
            command.add_argument(word, type=Path, help=HELP[word])
        if name not in ("again", "info"):
            command.add_argument("prompt", help="what the picture shows, in quotes")
    for name in ("img2img", "inpaint", "depth2img"):
        made[name].add_argument("--strength", type=number, help="0 to 1: how much is painted anew")
    made["trajectory"].add_argument("--columns", type=whole_number, default=8, help="8 by default")
    for name in ("txt2img", "trajectory"):
        made[name].add_argument(
            "--refiner", type=Path, help="the model of the last steps, as SDXL has one"
        )
        made[name].add_argument(
            "--share", type=number, help="0 to 1: of the steps before the refiner's; 0.8"
        )
    made["upscale"].add_argument("--level", type=whole_number, help="of noise, 0 to 999; 20")
    for name, task in TASKS.items():
        made[name] = commands.add_parser(
            name,
            help=task.line,
            description=task.page,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        task.options(made[name])
    return whole, made


def meant_by(option: str, command: Parser) -> str:
    """What follows "there is no --option": what is meant, as far as it can be told."""
    option = option.split("=")[0]
    name, known = option.strip("-").replace("-", "_").lower(), command._option_string_actions
    if name in WORDS and command.prog.split()[-1] not in TASKS:
        return f": {WORDS[name]}"
    near = difflib.get_close_matches(option.lower(), known, 1, 0.75)
    for line in THEIRS.split("\n")[1:]:
        ours, theirs = line.split(": ")
        if name in theirs.split() and ours.split()[0] in known:
            near = [ours]
    return f"; {near[0]}, perhaps?" if near else ""


def again(said: Mapping[str, str]) -> list[str]:
    """A picture's settings as the words that make it again; ValueError where they do not tell it.

    They are as little to be trusted as the file that they come from: nothing in them says where
    the picture is written, and `read` checks the words as if they had been typed.
    """
    name = said.get("minisd", "")
    if name not in COMMANDS or name in ("again", "info"):
        raise ValueError("it does not tell how minisd made it")
    if "version" not in said:
        raise ValueError("an older minisd made it, which did not write all that is needed")
    actions = {action.dest: action for action in parsers()[1][name]._actions}
    for dest in ("help", "out", "quiet", "n", "release"):
        del actions[dest]
    words = [dest for dest, action in actions.items() if not action.option_strings]
    unknown = set(said) - {*actions, *ABOUT, *(f"{dest} sha256" for dest in words)}
    missing = {*words, "size", "checkpoint bytes"} - set(said)
    if unknown or missing:
        what = f"it tells {min(unknown)!r}" if unknown else f"it does not tell its {min(missing)}"
        raise ValueError(f"{what}, as minisd {said['version']} did, and this one cannot follow it")
    options = [
        action.option_strings[0] + ("" if action.nargs == 0 else f"={value}")
        for dest, action in actions.items()
        if dest in said and dest not in words
        for value in (said[dest].split("\n") if dest in ("lora", "embedding") else [said[dest]])
    ]
    return [name, *options, "--", *(said[dest] for dest in words)]


def _out() -> Parser:
    parser = Parser(add_help=False)
    said = "minisd.png by default, or the next of minisd-1.png, ... that is free"
    parser.add_argument("--out", type=Path, help=said)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _how() -> Parser:
    parser = Parser(add_help=False, parents=[_out()])
    how = parser.add_argument_group("the picture")
    how.add_argument("--negative", default="", help="what the picture should not show")
    how.add_argument("--seed", type=whole_number, default=0, help="0 by default")
    how.add_argument(
        "--n", type=whole_number, default=1, help="how many pictures, of seed, seed + 1, ..."
    )
    said = "30 by default for the tiny model, 8 with --fast, 50 for others; a grid may take more"
    how.add_argument("--steps", type=whole_number, help=said)
    how.add_argument("--scale", type=number, help="of guidance; 1: none. The model's by default")
    how.add_argument("--guide-from", type=number, help="the time from which guidance acts; 1000")
    how.add_argument("--guide-until", type=number, help="the time down to which it acts; 0")
    how.add_argument("--rescale", type=number, default=0.0, help="0 to 1, against glaring guidance")
    how.add_argument("--zoom", type=whole_number, help="repeat pixels; to 256 a side by default")
    solver = parser.add_argument_group("the solver; docs/SAMPLERS.md says more")
    solver.add_argument(
        "--sampler",
        help=f"{SAMPLERS}; or a name of another program's, as 'DPM++ 2M Karras'. The model's by "
        "default",
    )
    solver.add_argument("--grid", help=f"of times: {GRIDS}. The model's by default")
    solver.add_argument("--eta", type=number, help="0 to 1: how much noise is drawn on the way")
    solver.add_argument(
        "--order", type=whole_number, help="of multistep solvers: lms, dpm_2m, deis, unipc"
    )
    solver.add_argument(
        "--churn", type=number, help="of euler and heun: EDM's S_churn, noise on the way"
    )
    return parser


def _control() -> Parser:
    parser = Parser(add_help=False)
    control = parser.add_argument_group("a sketch that leads the picture")
    control.add_argument(
        "--control",
        type=Path,
        metavar="PICTURE",
        help="of the kind that the ControlNet learned, as white outlines on black",
    )
    control.add_argument(
        "--control-net",
        type=Path,
        metavar="FILE",
        help="the ControlNet: .safetensors file or diffusers folder",
    )
    control.add_argument("--control-scale", type=number, help="how much it leads; 1 by default")
    control.add_argument("--control-from", type=number, help="the time from which it leads; 1000")
    control.add_argument("--control-until", type=number, help="the time down to which it leads; 0")
    control.add_argument(
        "--guess",
        action="store_true",
        help="lead without a prompt: the deep layers most, and "
        "nothing in the unconditional prediction",
    )
    return parser


def _size() -> Parser:
    parser = Parser(add_help=False)
    parser.add_argument("--size", type=side, help="512, or 512x768: height x width")
    return parser


def _model() -> Parser:
    parser = Parser(add_help=False)
    model = parser.add_argument_group("the model")
    model.add_argument("--checkpoint", type=Path, help=".safetensors file or diffusers folder")
    model.add_argument(
        "--lora",
        type=lora,
        action="append",
        metavar="FILE:SCALE",
        help="a LoRA for the checkpoint, as paint.safetensors:0.8; may be given again",
    )
    said = "the tiny model's LoRA for few calls: 8 steps, or --steps 4, 2, 1, without guidance"
    model.add_argument("--fast", action="store_true", help=said)
    model.add_argument(
        "--embedding",
        type=Path,
        action="append",
        metavar="FILE",
        help="a textual inversion: prompts may hold its word; may be given again",
    )
    model.add_argument("--family", help="sd1, sd2, sdxl, ...; recognised where it can be")
    model.add_argument("--prediction", choices=("eps", "v", "x0"), help="what its U-Net predicts")
    model.add_argument("--ema", action="store_true", help="take the averaged weights, if there")
    model.add_argument("--device", default="cpu", help="cpu, cuda, mps; cpu by default")
    model.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16", "float16", "auto"),
        help="what the networks compute in: float32 by default, which gives the same pictures on "
        "every processor; of a large file of 16 bits no copy is made for it. auto: the file's 16 "
        "bits, where they are faster here",
    )
    model.add_argument("--release", action="store_true", help="hold one network at a time")
    model.add_argument("--tile", type=whole_number, help="decode by tiles of so many latents")
    return parser

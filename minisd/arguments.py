"""What the command line may be told, and one sentence where it is told something else."""

import argparse
import difflib
from pathlib import Path
from typing import NoReturn

COMMANDS = ("txt2img", "img2img", "inpaint", "trajectory", "info")
EXAMPLES = """
  minisd "a small green star above a large yellow ring" --seed 3
  minisd "a circle" --negative red --n 4
  minisd trajectory "a purple star on black" --out strip.png
  minisd img2img drawing.png "a blue cross on white" --strength 0.6
  minisd inpaint picture.png mask.png "a red ring"
  minisd "a fox in the snow" --checkpoint sd-v1-4.safetensors
  minisd info sd-v1-4.safetensors

Without --checkpoint the tiny model that comes with minisd paints: one or two coloured shapes.
minisd txt2img --help, and so on, lists the options of each."""


class Parser(argparse.ArgumentParser):
    """argparse without its lines of usage: a mistake is told in one sentence."""

    def error(self, message: str) -> NoReturn:
        """The sentence on stderr, and exit code 2."""
        self.exit(2, f"minisd: {message} ({self.prog} --help lists what there is)\n")


def read(words: list[str]) -> argparse.Namespace:
    """A line's words as options; those without a command are txt2img's. SystemExit on a mistake."""
    given_name = not words or words[0] in (*COMMANDS, "-h", "--help")
    words = words if given_name else ["txt2img", *words]
    whole, commands = parsers()
    options, rest = whole.parse_known_args(words)
    if rest:
        command = commands[options.command]
        if rest[0].startswith("-"):
            known = command._option_string_actions
            near = difflib.get_close_matches(rest[0], known, 1)
            command.error(f"there is no {rest[0]}" + (f"; {near[0]}, perhaps?" if near else ""))
        meant = difflib.get_close_matches(words[1], COMMANDS, 1, 0.7)
        if options.command == "txt2img" and meant and not given_name:
            command.error(f"there is no command {words[1]}; {meant[0]}, perhaps?")
        more = " ".join(rest)
        command.error(f"{more!r} is left over: a prompt of several words goes in quotes")
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
    commands = whole.add_subparsers(dest="command", metavar="COMMAND")
    model, how, size, old = _model(), _how(), _size(), _old()
    shared = [how, size, model]
    made = {
        "txt2img": commands.add_parser(
            "txt2img", parents=shared, help="a picture of a prompt; the name may be left out"
        ),
        "img2img": commands.add_parser(
            "img2img", parents=[old, *shared], help="repaint a picture as a prompt says"
        ),
        "inpaint": commands.add_parser(
            "inpaint", parents=[old, *shared], help="repaint a part of a picture"
        ),
        "trajectory": commands.add_parser(
            "trajectory", parents=shared, help="the way to a picture: x_t above, predicted x0 below"
        ),
        "info": commands.add_parser("info", help="what a checkpoint is, told from its headers"),
    }
    for name in ("img2img", "inpaint"):
        made[name].add_argument("picture", type=Path, help="PNG, JPEG, ...")
    made["inpaint"].add_argument("mask", type=Path, help="white where it is painted anew")
    for name in ("txt2img", "img2img", "inpaint", "trajectory"):
        made[name].add_argument("prompt", help="what the picture shows, in quotes")
    made["trajectory"].add_argument("--columns", type=whole_number, default=8, help="8 by default")
    made["info"].add_argument("checkpoint", type=Path, help=".safetensors file or diffusers folder")
    return whole, made


def _how() -> Parser:
    parser = Parser(add_help=False)
    how = parser.add_argument_group("the picture")
    how.add_argument("--out", type=Path, default=Path("minisd.png"), help="minisd.png by default")
    how.add_argument("--negative", default="", help="what the picture should not show")
    how.add_argument("--seed", type=whole_number, default=0, help="0 by default")
    how.add_argument(
        "--n", type=whole_number, default=1, help="how many pictures, of seed, seed + 1, ..."
    )
    how.add_argument("--steps", type=whole_number, default=50, help="50 by default")
    how.add_argument("--scale", type=number, help="of guidance; 1: none. The model's by default")
    how.add_argument("--sampler", help="plms, ddim, s_pndm, pndm, ddpm. The model's by default")
    how.add_argument("--eta", type=number, default=0.0, help="0 to 1: ddim's noise on the way")
    how.add_argument("--rescale", type=number, default=0.0, help="0 to 1, against glaring guidance")
    how.add_argument("--zoom", type=whole_number, help="repeat pixels; to 256 a side by default")
    how.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _size() -> Parser:
    parser = Parser(add_help=False)
    parser.add_argument("--size", type=side, help="512, or 512x768: height x width")
    return parser


def _old() -> Parser:
    parser = Parser(add_help=False)
    parser.add_argument("--strength", type=number, help="0 to 1: how much is painted anew")
    return parser


def _model() -> Parser:
    parser = Parser(add_help=False)
    model = parser.add_argument_group("the model")
    model.add_argument("--checkpoint", type=Path, help=".safetensors file or diffusers folder")
    model.add_argument("--family", help="sd1, sd2, sdxl, ...; recognised where it can be")
    model.add_argument("--prediction", choices=("eps", "v"), help="what SD 2's U-Net predicts")
    model.add_argument("--ema", action="store_true", help="take the averaged weights, if there")
    model.add_argument("--device", default="cpu", help="cpu, cuda, mps; cpu by default")
    model.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16", "float16"),
        help="of the networks as they run; float32 by default",
    )
    model.add_argument("--release", action="store_true", help="hold one network at a time")
    model.add_argument("--tile", type=whole_number, help="decode by tiles of so many latents")
    return parser


# ---- values -------------------------------------------------------------------------------


def whole_number(text: str) -> int:
    """An integer."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def side(text: str) -> int | tuple[int, int]:
    """512 or 512x768, as a size."""
    try:
        numbers = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 2):
        raise argparse.ArgumentTypeError(f"{text!r} is no size like 512 or 512x768, height first")
    return numbers if len(numbers) == 2 else numbers[0]

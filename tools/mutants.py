"""Plant one slip after another in the formulas and see that the tests catch every one.

    python tools/mutants.py                 all slips, in order; exit status 1 if one survives
    python tools/mutants.py --sample 80     80 of them, drawn with --seed
    python tools/mutants.py --only sigma    those in functions of that name
    python tools/mutants.py --planted       the slips of solvers, made by hand (planted.txt)
    python tools/mutants.py --list          only say what would be planted

A slip is one small change of the syntax tree inside one function: a sign, * for /, a root or a
square left out, the time s for t, alpha for alpha_bar, two coefficients swapped, a number one more
or one less, a comparison that takes its limit in or leaves it out, a condition turned round.
Messages, type hints and docstrings are left alone.
"""

import argparse
import ast
import copy
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter

ROOT = pathlib.Path(__file__).resolve().parents[1]
TESTS = {
    "schedules.py": ["test_schedules.py", "test_samplers.py", "test_solvers.py"],
    "clocks.py": ["test_clocks.py", "test_solvers.py"],
    "equations/ddpm.py": ["test_equations.py", "test_samplers.py"],
    "equations/ddim.py": ["test_equations.py", "test_samplers.py"],
    "equations/pndm.py": ["test_equations.py", "test_samplers.py"],
    "equations/velocity.py": ["test_equations.py", "test_guidance.py", "test_distillation.py"],
    "equations/distillation.py": ["test_distillation.py"],
    "equations/consistency.py": ["test_distillation.py"],
    "equations/guidance.py": ["test_equations.py", "test_guidance.py", "test_score.py"],
    "equations/score.py": ["test_score.py"],
    "equations/edm.py": ["test_equations.py", "test_solvers.py"],
    "equations/dpm_solver.py": ["test_equations.py", "test_solvers.py"],
    "samplers.py": ["test_samplers.py", "test_solvers.py"],
    "steps.py": ["test_samplers.py", "test_solvers.py"],
    "prediction.py": ["test_samplers.py", "test_solvers.py"],
    "noise.py": ["test_samplers.py"],
    "guidance.py": ["test_guidance.py"],
    "losses.py": ["test_losses.py"],
}
SWAPS = [
    ("ab_t", "ab_s"), ("t", "s"), ("x0", "x_t"), ("eps", "x_t"), ("alpha_t", "ab_t"),
    ("e_t", "e_s"), ("eps_u", "eps_c"), ("e1", "e2"), ("e3", "e4"), ("out_u", "out_c"),
    ("start", "end"),
]  # fmt: skip
NAMES = {a: b for pair in SWAPS for a, b in (pair, pair[::-1])} | {"mid": "t"}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
               ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}  # fmt: skip

# Slips that change nothing that can be seen, each with the reason.
SQUARED = "squared right after: the sign is lost"
EQUIVALENT: dict[str, str] = {
    "zero_terminal_snr: sides of a difference swapped in `root[0] - root[-1]`": SQUARED,
    "zero_terminal_snr: sides of a difference swapped in `root - root[-1]`": SQUARED,
    "ldm_quad_times: sides of a difference swapped in `steps - 1`": SQUARED,
    "mean_matching_loss: sides of a difference swapped in `mean - mean_theta`": SQUARED,
    "eps_loss_weight: sides of a difference swapped in `1 - alpha_t`": SQUARED,
    "simple_loss: sides of a difference swapped in `eps - eps_theta`": SQUARED,
    "score_matching_loss: sides of a difference swapped in `score - target`": SQUARED,
    "gaussian_nll: sides of a difference swapped in `x - mean`": SQUARED,
    "l_t: 1 for 0 in `0` #2": "every sample of a batch has as many numbers",
    "l_t: -1 for 0 in `0` #2": "every sample of a batch has as many numbers",
    "l_t: x_t for x0 in `x0` #4": "x_t has as many numbers as x0",
    "l_t: eps for x_t in `x_t`": "eps has the shape of x_t, which is all that `checked` looks at",
    "l_simple: eps for x_t in `x_t`": "eps has the shape of x_t, as in l_t",
    "l_T: 1 for 0 in `0`": "every sample of a batch has as many numbers",
    "l_T: -1 for 0 in `0`": "every sample of a batch has as many numbers",
    "divergence: -1 for 0 in `0` #2": "there is one gradient, the first and the last",
    "alpha_bar: -1 for 0 in `0`": "the line has one dimension, which is also its last",
    "gaussian: Gt for GtE in `torch.rand(z.shape, generator=generator) >= dropout`": "never equal",
    "last: 2 for 1 in `1`": "two steps are kept in memory, the last is returned",
    "check_eta: GtE for Gt in `sigma(ab[t], ab[s], eta) ** 2 > 1 - ab[s] + 1e-12`": "never equal",
}


def slips_of(node: ast.AST, names: set[str]):
    """(what, replacement) for each slip of this very node; `names` are those in scope."""
    if isinstance(node, ast.BinOp):
        if type(node.op) in OPERATORS:
            other = OPERATORS[type(node.op)]
            yield (
                f"{other.__name__} for {type(node.op).__name__}",
                ast.BinOp(node.left, other(), node.right),
            )
        if isinstance(node.op, ast.Sub):
            yield "sides of a difference swapped", ast.BinOp(node.right, ast.Sub(), node.left)
        if isinstance(node.op, ast.Pow):
            yield "a power left out", node.left
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield "a sign left out", node.operand
    if isinstance(node, ast.Call):
        function = node.func
        if isinstance(function, ast.Name) and function.id in ("sqrt", "round", "float"):
            yield f"{function.id} left out", node.args[0]
        if isinstance(function, ast.Attribute) and function.attr in (
            "sqrt", "log", "exp", "clamp", "sum", "mean", "double", "reversed",
        ):  # fmt: skip
            yield f".{function.attr}() left out", function.value
        if isinstance(function, ast.Name) and function.id in ("max", "min"):
            other = ast.Name("min" if function.id == "max" else "max", ast.Load())
            yield f"{other.id} for {function.id}", ast.Call(other, node.args, node.keywords)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        other = NAMES.get(node.id)
        if other in names:
            yield f"{other} for {node.id}", ast.Name(other, ast.Load())
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value = node.value
        for changed in (value + 1, value - 1) if type(value) is int else (value * 1.1 + 1e-3,):
            yield f"{changed:g} for {value:g}", ast.Constant(changed)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        other = COMPARISONS[type(node.ops[0])]
        yield (
            f"{other.__name__} for {type(node.ops[0]).__name__}",
            ast.Compare(node.left, [other()], node.comparators),
        )
    if isinstance(node, (ast.IfExp, ast.If)):
        turned = copy.copy(node)
        turned.test = ast.UnaryOp(ast.Not(), node.test)
        yield "a condition turned round", turned


def places(function: ast.FunctionDef):
    """Every (parent, field, index, node) of the body, but not in messages, hints or docstrings."""
    todo = [(function, "body", i, n) for i, n in enumerate(function.body)]
    todo += [
        (function.args, "defaults", i, n)
        for i, n in enumerate(function.args.defaults)
        if isinstance(n, ast.Constant) and n.value
    ]
    while todo:
        parent, field, index, node = todo.pop(0)
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, (ast.Raise, ast.JoinedStr)) or docstring:
            continue
        yield parent, field, index, node
        for name, value in ast.iter_fields(node):
            if (
                name in ("annotation", "returns", "ctx")
                or isinstance(node, ast.FunctionDef)
                and (name in ("args", "decorator_list"))
            ):
                continue
            if isinstance(value, ast.AST):
                todo.append((node, name, None, value))
            elif isinstance(value, list):
                todo += [(node, name, i, v) for i, v in enumerate(value) if isinstance(v, ast.AST)]


def slips(path: pathlib.Path):
    """(name, source with the slip) for every slip of a file."""
    tree = ast.parse(path.read_text())
    inside = [n for c in tree.body if isinstance(c, ast.ClassDef) for n in c.body]
    for function in tree.body + inside:
        if not isinstance(function, ast.FunctionDef):
            continue
        names = {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
        names |= {a.arg for a in ast.walk(function) if isinstance(a, ast.arg)}
        seen = Counter()
        for parent, field, index, node in list(places(function)):
            for what, replacement in slips_of(node, names):
                line = getattr(node, "lineno", function.lineno)
                text = ast.unparse(node).splitlines()[0]
                name = f"{function.name}: {what} in `{text}`"
                seen[name] += 1
                name += f" #{seen[name]}" if seen[name] > 1 else ""
                slot = getattr(parent, field)
                if index is None:
                    setattr(parent, field, replacement)
                else:
                    slot[index] = replacement
                source = ast.unparse(ast.fix_missing_locations(tree))
                if index is None:
                    setattr(parent, field, node)
                else:
                    slot[index] = node
                yield name, line, source


def planted() -> list[tuple]:
    """(file, name, line, source) for the slips of planted.txt: "= file", and below it
    lines "old -> new", each text standing in the file once or, as "old -> new #2", at its
    second place. ValueError for one that the file no longer has."""
    found, file = [], ""
    for entry in (ROOT / "tools" / "planted.txt").read_text().splitlines():
        if entry.startswith("= "):
            file = entry[2:]
            source = (ROOT / "minisd" / file).read_text()
        elif entry and not entry.startswith("#"):
            change, _, place = entry.partition(" #")
            old, new = change.split(" -> ")
            parts, at = source.split(old), int(place or 1)
            if len(parts) < 2 or not place and len(parts) != 2:
                raise ValueError(f"minisd/{file} has {len(parts) - 1} times {old!r}")
            slipped = old.join(parts[:at]) + new + old.join(parts[at:])
            line = old.join(parts[:at]).count("\n") + 1
            found.append((file, f"planted: {entry}", line, slipped))
    return found


def try_slip(file: str, source: str) -> None:
    """In a child: import minisd with the slip in it and run the tests; never returns."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="minisd-slip-"))
    status = 2
    try:
        shutil.copytree(ROOT / "minisd", folder / "minisd", ignore=lambda *_: {"__pycache__"})
        (folder / "minisd" / file).write_text(source)
        sys.path.insert(0, str(folder))
        sys.dont_write_bytecode = True
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        import pytest

        import minisd

        assert minisd.__file__.startswith(str(folder))
        tests = [str(ROOT / "tests" / name) for name in TESTS[file]]
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:nbval", "-p", "no:xdist"]
        status = int(pytest.main([*options, "-o", "addopts=", *tests]) != 0)
    except BaseException:  # a slip that does not even import is caught too
        status = 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(status)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, help="this many, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="slips in the functions of these names")
    parser.add_argument("--planted", action="store_true", help="those of planted.txt instead")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--limit", type=float, default=120, help="seconds, then a slip is caught")
    arguments = parser.parse_args()
    if arguments.planted:
        wanted = planted()
    else:
        wanted = [(file, *slip) for file in TESTS for slip in slips(ROOT / "minisd" / file)]
        wanted = [w for w in wanted if w[1] not in EQUIVALENT]
    if arguments.only:
        wanted = [w for w in wanted if w[1].split(":")[0] in arguments.only]
    if arguments.sample:
        random.Random(arguments.seed).shuffle(wanted)
        wanted = sorted(wanted[: arguments.sample])
    if arguments.list:
        print("\n".join(f"{file}:{line} {name}" for file, name, line, _ in wanted))
        return 0
    # Import what is heavy once; each child is a fork and starts with it.
    import diffusers
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)
    diffusers.DDIMScheduler, diffusers.DDPMScheduler, diffusers.PNDMScheduler  # noqa: B018
    todo, running, survived, caught, start = list(wanted), {}, [], Counter(), time.time()
    while todo or running:
        while todo and len(running) < arguments.workers:
            file, name, line, source = todo.pop(0)
            pid = os.fork()
            if pid == 0:
                try_slip(file, source)
            running[pid] = (file, name, line, time.time())
        time.sleep(0.02)
        for pid, (file, name, line, began) in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended and time.time() - began > arguments.limit:
                print(f"STOPPED after {arguments.limit:g} s: {file}:{line} {name}", flush=True)
                os.kill(pid, 9)
                ended, status = os.waitpid(pid, 0)
            if ended:
                del running[pid]
                if status == 0:
                    survived.append(f"minisd/{file}:{line} {name}")
                    print("SURVIVED", survived[-1], flush=True)
                else:
                    caught[file] += 1
    for file, number in caught.items():
        print(f"minisd/{file}: {number} caught")
    print(
        f"{sum(caught.values())} of {len(wanted)} slips caught in {time.time() - start:.0f} s; "
        f"{len(EQUIVALENT)} more change nothing and are listed with their reasons"
    )
    return bool(survived)


if __name__ == "__main__":
    sys.exit(main())

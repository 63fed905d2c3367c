"""The training loop against its promises: resumed to the bit, the same on several processes, and
every mistake a sentence."""

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from minisd import training
from minisd.__main__ import main
from minisd.checkpoints import tensorfile
from minisd.tiny import stages, train
from minisd.training import Run, Settings, learning_rate, rng

SETTINGS = Settings(steps=30, batch=4, rate=1e-2, warmup=5)
RESUMED = pytest.mark.equal_bits("a training that goes on, on one machine, ends as in one piece")


class Toy:
    """A small network of every kind of weight that learns to find a bright spot."""

    name, slow = "toy", {}

    def __init__(self, seed=0, wrong=None):
        self.network = stages.seeded(Spotter, 6, seed)
        self.about, self.seed, self.wrong = {"seed": seed}, seed, wrong or {}

    def loss(self, step, samples):
        if step in self.wrong:
            return self.wrong[step](self)
        drawn = [rng(self.seed, step, i) for i in samples]
        at = torch.tensor([int(random.integers(64)) for random in drawn])
        x = torch.stack([torch.from_numpy(random.normal(size=64)).float() for random in drawn])
        return F.cross_entropy(self.network((x + 4 * F.one_hot(at, 64)).view(-1, 1, 8, 8)), at)


class Spotter(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.GroupNorm(2, width)
        self.out = nn.Conv2d(width, 1, 1, bias=False)  # it would have a gradient of rounding alone
        self.unused = nn.Linear(2, 2)  # has no gradient
        self.fixed = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, x):
        return self.out(F.silu(self.norm(self.conv(x)))).flatten(1)


def trained(path, settings=SETTINGS, stop=None, **toy):
    """A run's file after its last step, or after `stop`."""
    run = Run(Toy(**toy), settings, path)
    for step, _ in run.go():
        if step == stop:
            break
    run.save()
    return content(path)


def content(path):
    return {key: value.read() for key, value in tensorfile.open_tensors(path)[0].items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# ---- the rate -----------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [0, 1, 50])
@pytest.mark.parametrize("decay", [0.0, 0.2, 1.0])
def test_the_rate_rises_stays_and_falls(warmup, decay):
    settings = Settings(steps=500, batch=1, rate=0.3, warmup=warmup, decay=decay)
    rates = [learning_rate(step, settings) for step in range(500)]
    steps = np.arange(500)
    rise = np.interp(steps, [-1, warmup - 1], [0, 1]) if warmup else np.ones(500)
    fall = np.interp(steps, [500 - 500 * decay, 500], [1, 0]) if decay else np.ones(500)
    assert np.abs(np.array(rates) - 0.3 * np.minimum(rise, fall)).max() < 1e-12
    assert min(rates) > 0


# ---- resumed ------------------------------------------------------------------------------


@RESUMED
def test_a_run_in_pieces_is_the_run_in_one(tmp_path):
    whole = trained(tmp_path / "whole.safetensors")
    for stop in (1, 2, 17, 29, None):
        pieces = trained(tmp_path / "pieces.safetensors", stop=stop)
    assert same(whole, pieces) and len(whole["losses"]) == 30
    assert whole["losses"][-5:].mean() < 0.7 * whole["losses"][:5].mean()
    other = trained(tmp_path / "other.safetensors", seed=1)
    assert not same(whole, other)


@RESUMED
def test_a_run_saved_before_its_first_step_goes_on(tmp_path):
    path = tmp_path / "toy.safetensors"
    Run(Toy(), SETTINGS, path).save()
    assert same(trained(path), trained(tmp_path / "whole.safetensors"))


def test_the_average_follows_the_weights(tmp_path):
    """avg_k = keep_k avg_(k-1) + (1 - keep_k) w_k, keep_k = min(ema, (1 + k)/(10 + k))."""
    run = Run(Toy(), SETTINGS._replace(ema=0.5), tmp_path / "toy.safetensors")
    weight = dict(run.stage.network.named_parameters())["conv.weight"]
    expected = weight.detach().double()
    for k, _ in run.go():
        keep = min(0.5, (1 + k) / (10 + k))
        expected = keep * expected + (1 - keep) * weight.detach().double()
    run.save()
    stored = content(run.path)
    assert (stored["average.conv.weight"] - expected).abs().max() < 1e-6
    assert (stored["network.conv.weight"] - expected).abs().max() > 1e-4
    assert "average.fixed.weight" not in stored and "network.fixed.weight" in stored


def test_slow_weights_take_shorter_steps(tmp_path):
    """Adam's first step moves each weight by its rate, and by as much less where it is slow."""
    toy = Toy()
    toy.slow = {"conv.": 0.1}
    before = {key: weight.detach().clone() for key, weight in toy.network.named_parameters()}
    next(Run(toy, SETTINGS._replace(warmup=0), tmp_path / "toy.safetensors").go())
    for key, weight in toy.network.named_parameters():
        moved = float((weight.detach() - before[key]).abs().max())
        expected = 1e-3 if key.startswith("conv.") else 1e-2 if weight.grad is not None else 0
        assert abs(moved - expected) <= 0.02 * expected, key


def test_a_longer_run_goes_on_from_a_shorter(tmp_path):
    path = tmp_path / "toy.safetensors"
    short = trained(path)
    long = trained(path, SETTINGS._replace(steps=40))
    assert torch.equal(long["losses"][:30], short["losses"]) and len(long["losses"]) == 40


@pytest.mark.parametrize(
    "change, names", [({"rate": 2e-2}, "rate"), ({"batch": 8, "ema": 0.9}, "batch, ema")]
)
def test_other_settings_are_refused(tmp_path, change, names):
    path = tmp_path / "toy.safetensors"
    trained(path, stop=2)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"other settings \({names}\): give this one another"):
        Run(Toy(), SETTINGS._replace(**change), path)
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        Run(Toy(seed=1), SETTINGS, path)
    assert path.read_bytes() == before


def no_number(toy):
    return sum(w.sum() for w in toy.network.parameters()) * float("nan")


def no_gradient(toy):  # sqrt'(0) is infinite, the loss itself is 0
    return (toy.network.conv.weight * 0).sum().sqrt()


@RESUMED
@pytest.mark.parametrize("wrong", [no_number, no_gradient])
def test_a_loss_that_is_no_number_stops_and_spoils_nothing(tmp_path, wrong):
    path = tmp_path / "toy.safetensors"
    good = trained(path, stop=7)
    with pytest.raises(ValueError, match="the loss of step 7 is .*nan.*lower rate"):
        trained(path, wrong={7: wrong})
    assert same(content(path), good)
    assert same(trained(path), trained(tmp_path / "whole.safetensors"))


# ---- a run's file is compared with its network --------------------------------------------

CONV, NORM = "conv.weight", "norm.weight"


def change(key, function):
    def corrupt(tensors, about):
        tensors[key] = function(tensors[key])

    return corrupt


def rename(key, other):
    def corrupt(tensors, about):
        tensors[other] = tensors.pop(key)

    return corrupt


def say(key, value):
    def corrupt(tensors, about):
        about[key] = value
        if value is None:
            del about[key]

    return corrupt


def one(value):
    def changed(x):
        x = x.clone()
        x.view(-1)[:1] = value
        return x

    return changed


FIRST = lambda x: x.flatten()[:1]  # noqa: E731
NAN, INF = float("nan"), float("inf")
MISSING, UNEXPECTED, SHAPE = "missing: ", "1 unexpected: ", "1 wrongly shaped: "
LIKE_THE_WEIGHT = ("network", "average", "exp_avg", "exp_avg_sq")
CORRUPTIONS = {
    **{f"run = {text}": (say("run", text), "is no run of a training")
       for text in ("[]", "null", "3", '"run"', "{", "", "[" * 100_000, None)},
    **{f"step = {text}": (say("step", text), "is no run of a training")
       for text in ("", "-1", "1.5", "7 ", "many", "0x7", "9" * 5000, "٧", None)},
    "run = {}": (say("run", "{}"), "is a run with other settings"),
    "run with NaN": (say("run", '{"seed": NaN}'), "is a run with other settings"),
    "step = 99999999": (say("step", "99999999"), SHAPE + r"losses is \(7,\).*not \(99999999,\)"),
    "step = 6": (say("step", "6"), SHAPE + r"losses is \(7,\)"),
    "step = 0": (say("step", "0"), SHAPE + r"losses is \(7,\)"),
    "losses renamed": (rename("losses", "loss"), MISSING + "losses"),
    "losses in 2 dimensions": (change("losses", lambda x: x[None]), SHAPE + "losses"),
    "losses shorter": (change("losses", lambda x: x[1:]), SHAPE + "losses"),
    "losses in float32": (change("losses", lambda x: x.float()), SHAPE + "losses"),
    "losses NaN": (change("losses", one(NAN)), "numbers in losses that no training writes"),
    "a stranger": (lambda tensors, about: tensors.update(stranger=torch.zeros(2)), UNEXPECTED),
    **{f"{kind} renamed": (rename(f"{kind}.{CONV}", f"{kind}.other"), MISSING + f"{kind}.{CONV}")
       for kind in (*LIKE_THE_WEIGHT, "step")},
    **{f"{kind} of one number": (change(f"{kind}.{CONV}", FIRST), SHAPE + rf"{kind}.{CONV} is \(1,")
       for kind in LIKE_THE_WEIGHT},
    **{f"{kind} of another order": (change(f"{kind}.{CONV}", lambda x: x.movedim(0, 1)), SHAPE)
       for kind in LIKE_THE_WEIGHT},
    **{f"{kind} in {dtype}": (change(f"{kind}.{CONV}", lambda x, d=dtype: x.to(d)), SHAPE)
       for kind in LIKE_THE_WEIGHT for dtype in (torch.float16, torch.float64, torch.int32)},
    **{f"{kind} with {value}": (change(f"{kind}.{NORM}", one(value)), f"numbers in {kind}.{NORM}")
       for kind in (*LIKE_THE_WEIGHT, "step") for value in (NAN, -INF)},
    "step of a weight as a line": (change(f"step.{NORM}", lambda x: x[None]), SHAPE + "step."),
    "step of a weight below 0": (change(f"step.{NORM}", one(-1)), f"numbers in step.{NORM}"),
    "a square below 0": (change(f"exp_avg_sq.{NORM}", one(-1)), f"numbers in exp_avg_sq.{NORM}"),
    "moments of a fixed weight": (
        rename(f"exp_avg.{NORM}", "exp_avg.fixed.weight"), f"{MISSING}exp_avg.{NORM}.*{UNEXPECTED}"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def seventh(tmp_path_factory):
    """A run's file after seven steps: its tensors, and what it says."""
    path = tmp_path_factory.mktemp("seventh") / "toy.safetensors"
    return trained(path, stop=7), tensorfile.open_tensors(path)[1]


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corrupted_run_is_told_in_a_sentence(corruption, seventh, tmp_path):
    path = tmp_path / "toy.safetensors"
    tensors, about = (dict(part) for part in seventh)
    corrupt, message = CORRUPTIONS[corruption]
    corrupt(tensors, about)
    tensorfile.save_tensors(path, tensors, about)
    before = path.read_bytes()
    with pytest.raises(tensorfile.CheckpointError, match=message):
        Run(Toy(), SETTINGS, path)
    assert path.read_bytes() == before


def test_any_tensor_of_a_run_may_be_lost(seventh, tmp_path):
    path = tmp_path / "toy.safetensors"
    tensors, about = seventh
    for lost in tensors:
        tensorfile.save_tensors(path, {k: v for k, v in tensors.items() if k != lost}, about)
        with pytest.raises(tensorfile.CheckpointError, match=f"1 missing: {lost}"):
            Run(Toy(), SETTINGS, path)


# ---- two trainings in one folder, and a folder that cannot be written to --------------------


def test_a_run_that_another_training_wrote_is_not_replaced(tmp_path):
    path = tmp_path / "toy.safetensors"
    for other in ({"settings": SETTINGS._replace(rate=2e-2)}, {}):  # with other settings, or not
        path.unlink(missing_ok=True)
        first, second = (
            Run(Toy(), SETTINGS, path),
            Run(Toy(), other.get("settings", SETTINGS), path),
        )
        next(first.go())
        first.save()
        before = path.read_bytes()
        for _ in range(2):
            with pytest.raises(ValueError, match="written by another training.*another folder"):
                second.save()
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
        next(first.go())
        first.save()  # its own it may write on
    resumed = Run(Toy(), SETTINGS, path)
    next(resumed.go())
    resumed.save()
    with pytest.raises(ValueError, match="step 2 of this one is not saved"):
        first.save()
    path.unlink()
    first.save()  # nobody's any more


def full(*_, **__):
    raise tensorfile.SafetensorError("Error while serializing: I/O error: No space left on device")


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "toy.safetensors"
    good = trained(path, stop=4)
    run = Run(Toy(), SETTINGS, path)
    next(run.go())
    monkeypatch.setattr(training, "save_tensors", full)
    with pytest.raises(ValueError, match="cannot write .*toy.safetensors: .*No space left"):
        run.save()
    assert same(content(path), good) and list(tmp_path.iterdir()) == [path]


def test_a_plot_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "toy.png"
    train.draw_losses([3.0, 2.0, 1.0], path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ValueError, match="cannot write .*toy.png: No space left on device"):
        train.draw_losses([3.0], path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# ---- killed, and shared -------------------------------------------------------------------

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["minisd.tiny.train", "torch._dynamo", "pytest"])


def start(target, *arguments):
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    return process


def train_and_tell(path, done):
    torch.set_num_threads(1)
    run = Run(Toy(), SETTINGS, path)
    for step, _ in run.go():
        if step % 3 == 0 or step == SETTINGS.steps:
            run.save()
        done.send(step)
    done.close()


@RESUMED
def test_killed_at_any_moment_it_ends_the_same(tmp_path):
    """SIGKILL, while it trains or saves."""
    path, step = tmp_path / "killed.safetensors", 0
    for kill in (5, 13, 22, None):
        told, tell = PROCESSES.Pipe(duplex=False)
        process = start(train_and_tell, path, tell)
        tell.close()
        try:
            while step != kill:
                step = told.recv()
            os.kill(process.pid, signal.SIGKILL)
        except EOFError:
            pass
        process.join()
    assert process.exitcode == 0 and step == 30
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = trained(tmp_path / "whole.safetensors")
    torch.set_num_threads(threads)
    assert same(whole, content(path))


def save_and_die(path):
    run = Run(Toy(), SETTINGS, path)
    next(run.go())
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    run.save()


def test_a_killed_save_leaves_the_last_one_and_its_rest_goes(tmp_path):
    path = tmp_path / "toy.safetensors"
    good = trained(path, stop=4)
    process = start(save_and_die, path)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert same(content(path), good)
    assert len(list(tmp_path.iterdir())) == 2  # the half of a save is beside it
    trained(path)
    assert list(tmp_path.iterdir()) == [path]


def gradients(stage):
    weights = stage.network.named_parameters()
    return {key: weight.grad for key, weight in weights if weight.grad is not None}


def farthest(a, b):
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


def train_together(rank, folder):
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    run = Run(Toy(), SETTINGS, folder / "two.safetensors")
    run.stage.loss(3, range(rank, 4, 2)).backward()
    training.average_gradients(run.weights, torch.zeros(()))
    tensorfile.save_tensors(folder / f"gradients-{rank}.safetensors", gradients(run.stage), {})
    for _ in run.go():
        pass
    run.save()
    training.wait()
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch without torch.distributed")
def test_two_processes_train_as_one(tmp_path):
    processes = [start(train_together, rank, tmp_path) for rank in range(2)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    toy = Toy()
    toy.loss(3, range(4)).backward()
    for rank in range(2):
        shared = content(tmp_path / f"gradients-{rank}.safetensors")
        assert farthest(gradients(toy), shared) < 1e-6
    one, two = trained(tmp_path / "one.safetensors"), content(tmp_path / "two.safetensors")
    assert farthest(one, two) < 1e-5


def test_a_batch_that_cannot_be_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "group", lambda: (3, 0))
    with pytest.raises(ValueError, match="3 processes cannot share a batch of 4"):
        trained(tmp_path / "toy.safetensors")


# ---- the command --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["clip"], "no stage 'clip'; there are kl, vq, text, unet, export, distil"),
        (["--stepz", "3"], "there is no --stepz; --steps, perhaps?"),
        (["kl", "--steps", "0"], "--steps: must be a whole number from 1, got '0'"),
        (["unet", "--seed", "-1"], "--seed: must be a whole number from 0, got '-1'"),
        (["kl", "--steps", "9" * 5000], "--steps: must be a whole number from 1, got '999"),
        (["kl", "--steps", "many"], "--steps: must be a whole number from 1, got 'many'"),
        (["unet", "--folder", "."], "kl.safetensors is not there: train kl first"),
        (["export", "--folder", "."], "kl.safetensors is not there: train kl first"),
        (["kl", "--folder", "a-file"], "cannot use a-file: File exists"),
        (["kl", "--folder", "a-file/below"], "cannot use a-file/below: Not a directory"),
        (["kl", "--folder", "broken"], "kl.safetensors is not a whole safetensors file"),
    ],
)
def test_mistakes_of_the_command_are_sentences(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "kl.safetensors").write_text("half")
    try:
        code = main(["train", *words])
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr().err
    assert code == (2 if "-help lists" in said else 1) and said.count("\n") == 1
    assert said.startswith("minisd: ") and sentence in said


@pytest.mark.skipif(not dist.is_available(), reason="torch without torch.distributed")
def test_half_of_what_torchrun_sets(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    assert main(["train", "kl", "--folder", str(tmp_path)]) == 1
    assert "variable RANK expected, but not set" in capsys.readouterr().err


@RESUMED
def test_it_is_stopped_by_hand_and_goes_on(tmp_path, monkeypatch, capsys):
    def stop(toy):
        toy.wrong.clear()
        raise KeyboardInterrupt

    toy = Toy(wrong={20: stop})
    monkeypatch.setattr(train, "SETTINGS", {"kl": SETTINGS})
    monkeypatch.setattr(train, "stage", lambda *_: toy)
    words = ["train", "kl", "--folder", str(tmp_path / "runs"), "--save-every", "0"]
    assert main(words) == 130
    assert (
        "minisd: stopped; the same command goes on from the last save\n" in capsys.readouterr().err
    )
    path = tmp_path / "runs" / "kl.safetensors"
    assert len(content(path)["losses"]) == 20
    assert main(words) == 0
    assert same(content(path), trained(tmp_path / "whole.safetensors"))
    assert (tmp_path / "runs" / "toy.png").read_bytes().startswith(b"\x89PNG")

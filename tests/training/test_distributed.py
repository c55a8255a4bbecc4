"""Two processes over gloo against one, on the same global batch."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
import torch
from rich.console import Console
from torch import nn

import feathervit
from feathervit.checkpoint import load_state, load_weights
from feathervit.config import MLPConfig
from feathervit.results import read_result
from feathervit.training.distributed import join

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")

NO_RANDOMNESS = {
    "arch.feedforward.noise": False,
    "arch.feedforward.dropout": 0.0,
    "loss.moe": 0.0,
    "augment.erasing": 0.0,
}
AUGMENTED = {"augment.flip": "random", "augment.crop": "resized", "augment.policy": "trivial", "augment.mixup": 0.2}


def _environment(rank: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)


def _process(rank: int, port: int, arguments: dict) -> None:
    _environment(rank, port)
    feathervit.train(**arguments)


def _counting_process(rank: int, port: int, arguments: dict) -> None:
    """Trains, and writes how often the processes exchanged flags. Flags are integers; sums and gradients are not."""
    out, calls, exchange = arguments["out"], [], torch.distributed.all_reduce

    def counted(tensor, *args, **rest):
        calls.append(tensor.dtype)
        return exchange(tensor, *args, **rest)

    torch.distributed.all_reduce = counted
    _process(rank, port, arguments)
    (out.parent / f"exchanges{rank}").write_text(str(sum(not dtype.is_floating_point for dtype in calls)))


class Buffers(nn.Module):
    """A counter, and running statistics that never change."""

    def __init__(self, rank: int, norm: bool):
        super().__init__()
        self.layer, self.rank = nn.Linear(2, 2), rank
        self.norm = nn.BatchNorm1d(2, momentum=0.0) if norm else nn.Identity()
        if norm:
            self.norm.running_mean.fill_(rank)
        self.register_buffer("taken", torch.zeros(1))

    def forward(self, x):
        self.taken += 1 + self.rank
        return self.norm(self.layer(x)).sum()


def _buffers_process(rank: int, port: int, arguments: dict) -> None:
    _environment(rank, port)
    with join("cpu") as group:
        counter, norm = Buffers(rank, norm=False), Buffers(rank, norm=True)
        for module in (counter, norm):
            wrapped = group.wrap(module)
            for _ in range(2):
                wrapped(torch.randn(4, 2)).backward()
        (arguments["out"] / str(rank)).write_text(f"{counter.taken.item():g} {norm.norm.running_mean[0].item():g}")


def two_processes(process=_process, seconds: float = 120, **arguments) -> None:
    """Runs `process` in two processes of one group. Both must end in time without an error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=process, args=(rank, port, arguments)) for rank in range(2)]
    for child in processes:
        child.start()
    until = time.monotonic() + seconds
    for child in processes:
        child.join(max(0.0, until - time.monotonic()))
    ended = [child.exitcode for child in processes]
    for child in processes:
        child.kill()
        child.join()
    assert ended == [0, 0]  # None: still waiting


def assert_close(a, b, **tolerance) -> None:
    x, y = load_weights(a / "last.safetensors").weights, load_weights(b / "last.safetensors").weights
    for name in x:
        torch.testing.assert_close(x[name], y[name], **tolerance)


@pytest.fixture
def arguments(arrays, small) -> dict:
    """Fields of a run in which rounding hardly grows."""
    return {"data": arrays, "epochs": 2, **small, "lr": 1e-3, "optim.name": "adamw", "optim.eps": 1e-3}


def test_two_processes_equal_one_without_randomness(arguments, tmp_path):
    arguments |= {**NO_RANDOMNESS, "optim.ema": 0.5}
    feathervit.train(out=tmp_path / "one", **arguments)
    two_processes(out=tmp_path / "two", **arguments)
    assert_close(tmp_path / "one", tmp_path / "two", rtol=1e-4, atol=1e-6)
    one, two = (read_result(tmp_path / n / "result.json") for n in ("one", "two"))
    assert one.epochs[-1]["train_loss"] == pytest.approx(two.epochs[-1]["train_loss"], rel=1e-5)
    assert one.epochs[-1]["train_top1"] == two.epochs[-1]["train_top1"]


def test_processes_exchange_flags_once_per_step(arrays, tmp_path, small):
    two_processes(_counting_process, out=tmp_path / "run", data=arrays, epochs=4, **small)
    result = read_result(tmp_path / "run" / "result.json")
    steps = 4 * (result.data["n_train"] // small["batch_size"])
    assert steps >= 8
    assert int((tmp_path / "exchanges0").read_text()) <= steps + 4  # and a few before the first step and after the last


def test_counters_are_per_process_and_statistics_shared(tmp_path):
    two_processes(_buffers_process, out=tmp_path)
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["2 0", "4 0"]


def test_two_processes_equal_two_micro_steps_with_randomness(arguments, tmp_path):
    """Each share has its own noise, so this holds with augmentation, gate noise, dropout and balance losses.

    The logged balance loss is the mean over shares.
    """
    arguments |= AUGMENTED
    feathervit.train(out=tmp_path / "micro", accumulate=2, **arguments)
    two_processes(out=tmp_path / "two", **arguments)
    assert_close(tmp_path / "micro", tmp_path / "two", rtol=1e-4, atol=1e-6)
    micro, two = (read_result(tmp_path / n / "result.json").epochs for n in ("micro", "two"))
    for a, b in zip(micro, two, strict=True):
        assert a["train_balance"] == pytest.approx(b["train_balance"], rel=1e-4)
        assert a["train_balance"] > 0


def test_one_process_resumes_a_run_of_two(arguments, arrays, tmp_path):
    arguments |= {**NO_RANDOMNESS, "epochs": 3}
    feathervit.train(out=tmp_path / "whole", **arguments)
    two_processes(out=tmp_path / "cut", max_minutes=1e-6, **arguments)
    assert feathervit.train(out=tmp_path / "cut", resume=True, data=arrays).finished
    assert_close(tmp_path / "whole", tmp_path / "cut", rtol=1e-4, atol=1e-6)


def _without_a_compiler(rank: int, port: int, arguments: dict) -> None:
    """Hides the C++ compiler and the compiler's cache from the second process."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    if rank == 1:
        os.environ |= {"PATH": "", "TORCHINDUCTOR_CACHE_DIR": str(arguments["out"].with_name("compiled"))}
    _process(rank, port, arguments)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="one process needs a C++ compiler")
def test_both_run_eagerly_if_one_cannot_compile(arrays, tmp_path, small):
    text = tmp_path / "output.txt"
    quick = {"arch.feedforward": MLPConfig(1.0), "arch.depth": 1, "compile": "default"}  # to compile
    arguments = {"data": arrays, "epochs": 1, **small, **quick}
    with text.open("w") as file:
        two_processes(
            _without_a_compiler, 240, out=tmp_path / "two", console=Console(file=file, width=300), **arguments
        )
    assert "eagerly (in another process)" in text.read_text()
    two_processes(out=tmp_path / "eager", **{**arguments, "compile": "off"})
    assert_close(tmp_path / "two", tmp_path / "eager", rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler needs a C++ compiler")
def test_compiled_processes_equal_eager_ones(arguments, tmp_path):
    text = tmp_path / "output.txt"
    arguments |= NO_RANDOMNESS
    with text.open("w") as file:
        console = Console(file=file, width=300)
        two_processes(seconds=300, out=tmp_path / "two", console=console, compile="default", **arguments)
    assert "eagerly" not in text.read_text()
    two_processes(out=tmp_path / "eager", compile="off", **arguments)
    assert_close(tmp_path / "two", tmp_path / "eager", rtol=1e-4, atol=1e-6)


def test_a_run_resumes_after_only_skipped_steps(arrays, tmp_path, small):
    """Only the first process knows the images before the first stop. At this rate one step breaks the weights."""
    rate = {"lr": 1e30, "optim.name": "adamw", "optim.warmup_epochs": 0, "on_nonfinite": "skip", "max_minutes": 1e-6}
    arguments = {"data": arrays, "out": tmp_path / "run", "epochs": 2, **{**small, **rate, "batch_size": 16}}
    two_processes(seconds=60, **arguments)
    state, before, _ = load_state(tmp_path / "run")
    assert (before["progress"]["step"], before["progress"]["skipped"]) == (1, 0) and state["sums"][-1] > 0
    two_processes(seconds=60, **arguments, resume=True)
    _, after, _ = load_state(tmp_path / "run")
    assert (after["progress"]["step"], after["progress"]["skipped"]) == (2, 1)


@pytest.mark.slow
def test_all_processes_end_when_one_dies(folder, tmp_path):
    """Through torchrun, as a user starts it."""
    out = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    flags = ["--model", "mlit_nano", "--img-size", "16", "--patch-size", "4", "--epochs", "100000", "--device", "cpu"]
    run = subprocess.Popen([*torchrun, "-m", "feathervit", "train", "--data", folder, "--out", out, *flags])
    try:
        until = time.monotonic() + 120
        while not (out / "metrics.csv").exists() and time.monotonic() < until:
            time.sleep(0.5)
        assert (out / "metrics.csv").exists()
        victims = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True).stdout.split()
        os.kill(int(victims[-1]), 9)
        assert run.wait(60) != 0
    finally:
        run.kill()

"""The device of a run, and its random generators."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

import feathervit
from feathervit.benchmark import peers
from feathervit.device import choose_device, own_randomness, seed

CPU = torch.device("cpu")


def test_tests_without_the_gpu_mark_see_no_gpu():
    assert choose_device("auto")[0] == CPU
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_seed_equals_torch_manual_seed():
    seed(CPU, 5)
    first = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), first)


def test_own_randomness_does_not_change_the_global_generator():
    torch.manual_seed(1)
    want = torch.rand(3)
    torch.manual_seed(1)
    with own_randomness(CPU):
        seed(CPU, 9)
        torch.rand(100)
    assert torch.equal(torch.rand(3), want)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_reused():
    """Tensors of 64 MiB do not take new pages each time: ten would take 640 MiB. glibc may extend its heap once more."""
    code = """
import resource, torch
from feathervit.device import reuse_memory
reuse_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24), torch.ones(2**24)
before = faults()
for _ in range(10):
    torch.ones(2**24)
print((faults() - before) * resource.getpagesize() / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) <= 128


@pytest.fixture
def forked(monkeypatch) -> list:
    """Records the devices whose generators were saved; None means all."""
    found = []

    @contextmanager
    def fork(devices=None, *_, **__):
        found.append(None if devices is None else list(devices))
        yield

    monkeypatch.setattr(torch.random, "fork_rng", fork)
    return found


def test_only_generators_of_used_devices_are_saved(forked, monkeypatch, arrays, tmp_path, small):
    feathervit.train(data=arrays, out=tmp_path, max_minutes=1e-6, **small)
    peers.build("mlit_nano", 16, 4, 10)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    with own_randomness(torch.device("cuda")):
        pass
    assert forked[-1] == [3]
    assert all(devices == [] for devices in forked[:-1]) and len(forked) >= 3

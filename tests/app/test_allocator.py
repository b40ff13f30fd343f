"""What is freed is kept for the next tensors."""

import ctypes
import resource

import pytest
import torch

from denoiselab.app.runs import allocator


def faults_of_tensors():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.zeros(2**24)  # 64 MiB, of 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_large_tensors_take_no_pages_anew():
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("the C library is not glibc")
    allocator.keep_freed_memory()
    faults_of_tensors()
    assert faults_of_tensors() < 1000  # by default 131,000


def test_another_c_library_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    allocator.keep_freed_memory()

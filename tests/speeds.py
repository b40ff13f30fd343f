"""The table of speeds: what benchmarks report, beside peers of the same process, printed and written at the end.

`pytest -m benchmark tests/benchmarks/speed` fills it in some minutes; `pytest -m benchmark` adds all other benchmarks,
which take hours and have no rows. On a GPU: `pytest -m gpu tests/benchmarks/speed`.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
NAME = "benchmarks"
_ROWS = pytest.StashKey[list]()

NO_GPU = "this machine has no GPU that torch can use"
CPU = pytest.param("cpu", marks=pytest.mark.benchmark)
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)])


def pytest_configure(config):
    config.stash[_ROWS] = []


@pytest.fixture(params=[CPU, GPU])
def device(request):
    """The processor, under `-m benchmark`, or the GPU, under `-m gpu`."""
    return torch.device(request.param)


@pytest.fixture
def timed(request):
    """Measures calls in turn, so that all see the same load of the machine, and adds a row for each peer.

    `timed(kind, case, {"ours": call, "<peer>": call, ...}, rounds=, device=, warm=)` returns the medians in seconds;
    each call is made once before it is measured, unless `warm` is false.
    """

    def measure(kind, case, calls, rounds=7, device=None, *, warm=True):
        on_gpu = device is not None and device.type == "cuda"
        taken = {name: [] for name in calls}
        for round_ in range(-warm, rounds):
            for name, call in calls.items():
                if on_gpu:
                    torch.cuda.synchronize()
                start = time.perf_counter()
                call()
                if on_gpu:
                    torch.cuda.synchronize()
                if round_ >= 0:
                    taken[name].append(time.perf_counter() - start)
        medians = {name: statistics.median(values) for name, values in taken.items()}
        report(request.config, kind, case, medians)
        return medians

    return measure


@pytest.fixture
def reported(request):
    """Adds a row for each peer: `reported(kind, case, {"ours": seconds, "<peer>": seconds})`."""
    return lambda kind, case, seconds: report(request.config, kind, case, seconds)


def report(config, kind, case, seconds):
    own = seconds["ours"]
    for peer, value in seconds.items():
        if peer != "ours":
            row = {"kind": kind, "case": case, "ours_ms": 1e3 * own, "peer": peer, "peer_ms": 1e3 * value}
            config.stash[_ROWS].append({**row, "ratio": value / own})


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(_ROWS, [])
    if not rows:
        return
    facts = machine()
    text = table(rows, facts)
    folder = ROOT / "logs"
    folder.mkdir(exist_ok=True)
    (folder / f"{NAME}.md").write_text(text, encoding="utf-8")
    (folder / f"{NAME}.json").write_text(json.dumps({"machine": facts, "rows": rows}, indent=1), encoding="utf-8")
    terminalreporter.section("speeds beside peers")
    terminalreporter.write_line(text)
    terminalreporter.write_line(f"written to {folder / NAME}.md and .json")


def machine():
    """What the figures depend on."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    packages = ("torch", "diffusers", "torch-fidelity", "pytorch-lightning", "torchvision")
    return {
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": os.getloadavg()[1],  # of five minutes: more than the threads of the benchmark, and others ran beside it
        "python": platform.python_version(),
        "commit": git.stdout.strip() or None,
        **{name: version(name) for name in packages},
    }


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(rows, facts):
    """In Markdown; a ratio above 1: ours is faster."""
    shown = ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None and key != "load")
    lines = [f"Machine: {shown}; mean load {facts['load']:.1f}.", ""]
    lines += ["| what | case | ours | peer | its time | its time / ours |", "| --- " * 6 + "|"]
    for row in rows:
        ours, theirs = (f"{row[key]:.3g} ms" for key in ("ours_ms", "peer_ms"))
        lines.append(f"| {row['kind']} | {row['case']} | {ours} | {row['peer']} | {theirs} | {row['ratio']:.2f} |")
    return "\n".join(lines) + "\n"

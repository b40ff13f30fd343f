"""NVlabs' pickles: read only when trusted, and even then without running anything in them."""

import json
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from denoiselab.interop.nvlabs.pickles import main


def _reconstruct_persistent_obj(meta):
    raise AssertionError("the original would execute the source here")


class EasyDict(dict):
    def __getattr__(self, name):
        return self[name]

    def __setattr__(self, name, value):
        self[name] = value


class Persistent(torch.nn.Module):
    """Pickled as `torch_utils.persistence.persistent_class` does it: with source in place of a class's name."""

    def __init__(self, **options):
        super().__init__()
        self._init_args, self._init_kwargs = (), EasyDict(options)
        self.linear = torch.nn.Linear(3, 2)
        self.register_buffer("freqs", torch.arange(4.0))
        self.register_buffer("scratch", torch.zeros(1), persistent=False)
        self.layers = torch.nn.ModuleDict({"8x8_conv": torch.nn.Conv2d(2, 2, 3)})

    def __reduce__(self):
        source = "import pathlib\npathlib.Path('owned').touch()\n"
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": "SongUNet", "state": self.__dict__}
        return _reconstruct_persistent_obj, (meta,)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A pickle such as EDM's `network-snapshot.pkl`."""
    monkeypatch.chdir(tmp_path)
    persistence, dnnlib = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")
    monkeypatch.setattr(_reconstruct_persistent_obj, "__module__", "torch_utils.persistence")
    monkeypatch.setattr(EasyDict, "__module__", "dnnlib.util")
    persistence._reconstruct_persistent_obj, dnnlib.EasyDict = _reconstruct_persistent_obj, EasyDict
    for name, module in {"torch_utils.persistence": persistence, "dnnlib.util": dnnlib}.items():
        monkeypatch.setitem(sys.modules, name.split(".")[0], types.ModuleType(name.split(".")[0]))
        monkeypatch.setitem(sys.modules, name, module)
    torch.manual_seed(0)
    network = Persistent(img_resolution=8, channel_mult=[1, 2], sigma_data=np.float64(0.5)).half()
    path = tmp_path / "network.pkl"
    path.write_bytes(pickle.dumps({"ema": network, "dataset_kwargs": EasyDict(path="x"), "when": np.arange(3)}))
    for name in ("torch_utils.persistence", "dnnlib.util"):
        monkeypatch.delitem(sys.modules, name)
    return path, network


def test_a_network_is_written_as_tensors_and_arguments(file, tmp_path, capsys):
    path, network = file
    assert main(["--trust-pickle", str(path), "out"]) == 0
    state = load_file(tmp_path / "out" / "model.safetensors")
    assert state.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(state[name], tensor)
        assert state[name].dtype == torch.float16
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    assert described == {
        "class_name": "SongUNet",
        "init_args": [],
        "init_kwargs": {"img_resolution": 8, "channel_mult": [1, 2], "sigma_data": 0.5},
    }
    assert not (tmp_path / "owned").exists()
    assert main(["--trust-pickle", str(path), "out"]) == 2
    assert "out: cannot be written (File exists)" in capsys.readouterr().err


def test_without_the_flag_nothing_is_read(file, tmp_path, capsys):
    path, _ = file
    assert main([str(path), "out"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{path}: a pickle can run any code" in said
    assert "--trust-pickle" in said
    assert not (tmp_path / "out").exists()


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def strange():
    """A module that is none."""
    module = torch.nn.Linear(1, 1)
    module.__dict__["_parameters"] = 5
    return module


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"ema": strange()}, "no network can be built from it: 'int' object"),
        (Malicious(eval, "__import__('pathlib').Path('owned').touch()"), "it imports builtins.eval"),
        (Malicious(torch.load, "owned"), "it imports torch.serialization.load"),
        ({"ema": [1, 2]}, "it contains no network"),
        ({"G": 1}, "has no 'ema'; it has: G"),
    ],
)
def test_what_is_not_a_network_is_refused(content, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(content))
    assert main(["--trust-pickle", str(path), "out"]) == 2
    assert f"{path}: {says}" in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {"evil.pkl"}


@pytest.mark.parametrize("cut", [0, 1, 200])
def test_half_a_pickle_is_refused(cut, file, capsys):
    path, _ = file
    path.write_bytes(path.read_bytes()[:cut])
    assert main(["--trust-pickle", str(path), "out"]) == 2
    assert f"{path}: damaged or truncated" in capsys.readouterr().err

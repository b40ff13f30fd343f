"""Sharded training equals training on one device, and its checkpoints are read anywhere."""

import itertools
import json
import os
import pickle
import shutil
import socket
from pathlib import Path

import pytest
import torch
from configurations import CONF
from omegaconf import OmegaConf
from ranks import on_ranks
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sharded_runs import BATCH, STEPS, fit, on_rank
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from denoiselab import files
from denoiselab.app.building.starting import Former
from denoiselab.app.runs.devices import check_devices
from denoiselab.app.runs.strategies import check_checkpoints, check_strategy
from denoiselab.errors import BadInput
from denoiselab.files import read_json, sha256_of, write_json
from denoiselab.training import sharded_checkpoints
from denoiselab.training.checkpoint_files import (
    CheckpointError,
    DamagedError,
    newest_whole,
    read_checkpoint,
    saved,
    write_checkpoint,
)
from denoiselab.training.finite import tensors_in


def sharded(folder, world, steps, ckpt=None, options=None, compiler="off"):
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    on_ranks(on_rank, (folder, port, world, steps, ckpt, options, compiler), world)
    return torch.load(folder / "losses.pt")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return folder, fit(folder, STEPS).losses


@pytest.fixture(scope="module")
def changing(tmp_path_factory):
    """Ten steps on two ranks, ten on one without sharding, ten on three; the folder of each, and all losses."""
    two, alone, three = (tmp_path_factory.mktemp("changing") / name for name in ("two", "alone", "three"))
    losses = sharded(two, 2, 10)
    shutil.copytree(two, alone)
    losses += fit(alone, 20, ckpt=alone / "last.ckpt").losses
    shutil.copytree(alone, three)
    losses += sharded(three, 3, STEPS, three / "last.ckpt", {"keep": 2, "asynchronous": True})
    return two, alone, three, losses


def test_any_world_trains_the_same_model(one, changing):
    """2 -> 1 (not sharded) -> 3 processes: rounding alone differs, in weights, averages, optimizer and snapshots."""
    *folders, losses = changing
    assert losses == pytest.approx(one[1], rel=1e-6)
    want, got = (read_checkpoint(folder / "last.ckpt") for folder in (one[0], folders[-1]))
    assert (want["global_step"], want["denoiselab"]["images_seen"]) == (STEPS, STEPS * BATCH)
    same(got, want, 1e-5)
    for number in (10, 20, 30):
        name = f"{number * BATCH:012d}.pt"
        same(*(torch.load(folder / "snapshots" / name) for folder in (folders[-1], one[0])), 1e-5)


@pytest.mark.benchmark
@pytest.mark.parametrize("compiler", ["per_block", "whole"])
def test_what_is_compiled_is_sharded_alike(compiler, one, tmp_path):
    assert sharded(tmp_path / "run", 2, 10, compiler=compiler) == pytest.approx(one[1][:10], rel=1e-6)


def same(got, want, atol):
    got, want = dict(tensors_in(got)), dict(tensors_in(want))
    assert [*got] == [*want]
    for name, tensor in want.items():
        assert (got[name].shape, got[name].dtype) == (tensor.shape, tensor.dtype), name
        assert torch.allclose(got[name], tensor, rtol=0, atol=atol), name


def test_kinds_of_checkpoints_follow_each_other_in_rotation(changing):
    two, alone, three, _ = changing
    assert [(path.name, path.is_dir()) for path in saved(two)] == [("last.ckpt", True)]
    assert [(path.name, path.is_dir()) for path in saved(alone)] == [("last.ckpt", False), ("last.1.ckpt", True)]
    assert [(path.name, path.is_dir()) for path in saved(three)] == [("last.ckpt", True), ("last.1.ckpt", False)]
    assert not [path for folder in (two, alone, three) for path in folder.glob(".*")]


def test_a_directory_becomes_a_file_of_the_same_numbers(changing, tmp_path):
    directory = changing[0] / "last.ckpt"
    whole = read_checkpoint(directory)
    write_checkpoint(whole, tmp_path / "file.ckpt")
    same(read_checkpoint(tmp_path / "file.ckpt"), whole, 0)
    assert {*torch.load(tmp_path / "file.ckpt")} == {*torch.load(changing[1] / "last.ckpt")}
    # Ranks that continue it read shapes alone before.
    assert all(tensor.is_meta for name, tensor in tensors_in(newest_whole(changing[0])[1]["state_dict"]))
    assert not [*directory.glob("*metadata*")]  # no pickle of torch's


def relisted(directory, name):
    """Give a changed file its checksum, as who plants one would."""
    manifest = read_json(directory / "manifest.json")
    manifest["files"][name] = sha256_of(directory / name)
    write_json(directory / "manifest.json", manifest)


def flip(directory):
    content = bytearray((directory / SHARD).read_bytes())
    content[-1] ^= 1
    (directory / SHARD).write_bytes(content)


def cut(directory):
    (directory / SHARD).write_bytes((directory / SHARD).read_bytes()[:-9])
    relisted(directory, SHARD)


def lose(directory):
    (directory / SHARD).unlink()


def forget(directory):
    """A shard is gone, and from the manifest, too."""
    manifest = read_json(directory / "manifest.json")
    del manifest["files"][SHARD]
    write_json(directory / "manifest.json", manifest)
    lose(directory)


def move(directory):
    """A part says that it is elsewhere in its tensor."""
    with safe_open(directory / SHARD, "pt") as file:
        notes = file.metadata()
    notes["DCP_SHARDING_INFO"] = notes["DCP_SHARDING_INFO"].replace("[4, 0]", "[1099511627776, 0]")
    save_file(load_file(directory / SHARD), directory / SHARD, notes)
    relisted(directory, SHARD)


class Planted:
    def __reduce__(self):
        return print, ("PLANTED CODE RAN",)


def plant(directory):
    torch.save({"denoiselab": Planted()}, directory / "rest.pt")
    relisted(directory, "rest.pt")


def plant_metadata(directory):
    (directory / "planted.metadata").write_bytes(pickle.dumps(Planted()))


def rename(directory):
    manifest = read_json(directory / "manifest.json")
    manifest["tensors"][json.dumps(["no", "such", "place"])] = manifest["tensors"].pop(next(iter(manifest["tensors"])))
    write_json(directory / "manifest.json", manifest)


SHARD = "shard-00002-model-00001-of-00001.safetensors"
BREAKS = {
    flip: "safetensors is damaged or truncated", cut: "files of tensors are malformed", lose: "it lacks shard-00002",
    forget: "a part of the tensor|do not hold the tensor", move: "part of the tensor|do not hold the tensor",
    plant: "rest.pt is damaged, or holds something else", plant_metadata: "planted.metadata does not belong to it",
    rename: "do not hold the tensor",
    lambda directory: (directory / "manifest.json").unlink(): "was not written to the end",
    lambda directory: (directory / "manifest.json").write_text("{"): "manifest.json is damaged",
    lambda directory: (directory / "rest.pt").write_bytes(b"x"): "rest.pt is damaged",
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), BREAKS.items(), ids=range(len(BREAKS)))
def test_a_directory_that_is_not_as_it_was_written_is_one_sentence(change, words, changing, tmp_path, capfd):
    directory = tmp_path / "last.ckpt"
    shutil.copytree(changing[0] / "last.ckpt", directory)
    shutil.copytree(changing[0] / "last.ckpt", tmp_path / "last.1.ckpt")
    change(directory)
    with pytest.raises(DamagedError, match=words) as caught:
        read_checkpoint(directory)
    assert str(directory) in str(caught.value)
    assert "beside it: last.1.ckpt" in str(caught.value)
    assert "PLANTED" not in capfd.readouterr().out


def test_what_is_no_checkpoint_of_ours_is_refused(tmp_path):
    (tmp_path / "foreign.ckpt").mkdir()
    (tmp_path / "foreign.ckpt" / ".metadata").write_bytes(pickle.dumps(Planted()))
    with pytest.raises(CheckpointError, match=r"it has no manifest\.json"):
        read_checkpoint(tmp_path / "foreign.ckpt")


def test_a_parameter_in_two_places_is_refused():
    from denoiselab.training.sharding import shard

    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    network[1].weight = network[0].weight
    with pytest.raises(BadInput, match=r"fsdp2: the parameter 1\.weight is 0\.weight, too"):
        shard(network, [], None)


def test_what_would_go_wrong_in_silence_is_one_sentence():
    node = {"strategy": {"_target_": "pytorch_lightning.strategies.DDPStrategy", "static_graph": True}}
    check_strategy({**node, "accumulate_grad_batches": 1})
    with pytest.raises(BadInput, match="gradients would not be averaged over devices"):
        check_strategy({**node, "accumulate_grad_batches": 2})
    for name in ("fsdp", "deepspeed_stage_2", "pytorch_lightning.strategies.ModelParallelStrategy"):
        with pytest.raises(BadInput, match="use trainer=fsdp2"):
            check_strategy({"strategy": name, "accumulate_grad_batches": 1})
    with pytest.raises(BadInput, match="is for the directories of sharded trainings"):
        check_checkpoints({"strategy": "ddp"}, {"checkpoints": {"asynchronous": True}})


@pytest.mark.parametrize("strategy", ["fsdp2", {"_target_": "denoiselab.training.strategies.Sharded", "timeout": 600}])
def test_checks_know_the_strategy_of_the_trainer_group(strategy):
    assert strategy == "fsdp2" or OmegaConf.load(CONF / "trainer" / "fsdp2.yaml").strategy.items() <= strategy.items()
    trainer = {
        "strategy": strategy, "precision": "bf16-true", "accelerator": "cpu", "devices": 1, "num_nodes": 1,
        "accumulate_grad_batches": 1,
    }  # fmt: skip
    check_checkpoints(trainer, {"checkpoints": {"asynchronous": True}})
    with pytest.raises(BadInput, match=r"trainer\.precision=bf16-true: weights that are sharded are not copied"):
        check_devices(trainer, 1, sweeping=False)
    with pytest.raises(BadInput, match=r"trainer\.precision=16-mixed: is not offered for sharded"):
        check_devices({**trainer, "precision": "16-mixed"}, 1, sweeping=False)


def test_a_copy_stays_as_it_was_while_the_training_goes_on(tmp_path):
    """On one rank the whole of a tensor is its part itself."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        weights = {name: distribute_tensor(torch.ones(size), mesh, [Shard(0)]) for name, size in (("a", 1), ("b", 3))}
        content = {"state_dict": weights, "optimizer_states": [], "denoiselab": {"ema": {}}}
        path = tmp_path / "last.ckpt"
        write = sharded_checkpoints.written(content, path, 1, None, lambda place: place[-1] == "a", copy=True)
        for tensor in weights.values():
            tensor.to_local().zero_()
        write()
    finally:
        torch.distributed.destroy_process_group()
    found = sharded_checkpoints.read(path)["state_dict"]
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"a": 1.0, "b": [1.0, 1.0, 1.0]}


# Where a save is killed: when tensors are written; between the renames of both; when the new one has its name.
DEATHS = [("sha256_of", 0), ("rename", 1), ("_drop", 1)]


def write_twice(rank, folder):
    """Each rank alone: a checkpoint of ones, then one of twos, in the writing of which the process is killed."""
    name, at = DEATHS[rank]
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / f'store{rank}'}", rank=0, world_size=1)
    mesh, path = init_device_mesh("cpu", (1,)), folder / str(rank) / "last.ckpt"
    path.parent.mkdir()

    def write(value):
        weights = {"a": distribute_tensor(torch.full((3,), value), mesh, [Shard(0)])}
        content = {"state_dict": weights, "optimizer_states": [], "denoiselab": {"ema": {}}}
        sharded_checkpoints.written(content, path, 1, None, lambda place: False, copy=False)()

    write(1.0)
    owner = {"rename": Path, "_drop": files}.get(name, sharded_checkpoints)
    calls, true = itertools.count(), getattr(owner, name)

    def dying(*arguments):
        if next(calls) == at:
            os._exit(0)
        return true(*arguments)

    setattr(owner, name, dying)
    write(2.0)
    raise AssertionError("not killed")


def test_a_save_that_is_killed_leaves_the_last_checkpoint_or_the_new_one(tmp_path):
    on_ranks(write_twice, (tmp_path,), len(DEATHS))
    for number, (name, _) in enumerate(DEATHS):
        newest = saved(tmp_path / str(number))[0]
        assert sharded_checkpoints.read(newest)["state_dict"]["a"].tolist() == [2.0 if name == "_drop" else 1.0] * 3


def test_a_directory_is_put_aside_where_one_was_before(tmp_path):
    last = tmp_path / "last.ckpt"
    for text in "ab":
        last.mkdir()
        (last / "rest.pt").write_text(text)
        Former(tmp_path / "last.1.ckpt", 0, None, None, {last: "damaged."}).put_aside()
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt.damaged"]
    assert (tmp_path / "last.ckpt.damaged" / "rest.pt").read_text() == "b"


def test_places_that_no_parameter_has_belong_to_none():
    for place in ([], ["state_dict"], ["state_dict", 1], ["optimizer_states", 0, "state", 5, "step"], ["x", "y"]):
        assert sharded_checkpoints.parameter_of(place, ["a"]) is None

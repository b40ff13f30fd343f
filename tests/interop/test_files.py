"""Files of others that are damaged, incomplete or hostile: one sentence that names file and key, nothing loaded."""

import hashlib
import json
import os
import shutil
import zipfile

import diffusers
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from frozen_models import UNET2D
from safetensors.torch import load_file, save_file

from denoiselab.interop.diffusers.pipeline_parts import codec, text_conditioner
from denoiselab.interop.diffusers.pipelines import Pipeline
from denoiselab.interop.diffusers.schedulers import DEFAULT_BETAS, from_scheduler
from denoiselab.interop.weights.files import local, read_tensors
from denoiselab.interop.weights.state_dicts import InteropError
from denoiselab.nodes.instantiate import construct

WEIGHTS, CONFIG = "unet/diffusion_pytorch_model.safetensors", "unet/config.json"
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    DDPMPipeline(UNet2DModel(**UNET2D), DDPMScheduler()).save_pretrained(tmp_path)
    return tmp_path


def cut(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def state_with(change):
    def damage(folder):
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS)

    return damage


def json_with(name, **options):
    def damage(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **options}))

    return damage


class Code:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def hostile(folder):
    (folder / WEIGHTS).unlink()
    torch.save({"conv_in.weight": Code()}, folder / "unet" / "diffusion_pytorch_model.bin")


def index(places):
    def damage(folder):
        (folder / WEIGHTS).rename(folder / "unet" / "part.safetensors")
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": places}))

    return damage


def of(change):
    """One tensor in another kind, in a file of torch, which holds all kinds."""

    def damage(folder):
        state = load_file(folder / WEIGHTS)
        state["conv_in.bias"] = change(state["conv_in.bias"])
        (folder / WEIGHTS).unlink()
        torch.save(state, (folder / WEIGHTS).with_suffix(".bin"))

    return damage


def wide(state):
    state["mid_block.resnets.0.conv1.bias"] = torch.zeros(31)


def not_finite(state):
    state["conv_in.bias"][3] = torch.nan


KINDS = {
    "int8": lambda t: t.to(torch.int8),
    "complex64": lambda t: t.to(torch.complex64),
    "float8_e5m2": lambda t: t.to(torch.float8_e5m2),
    "sparse_coo float32": lambda t: t.to_sparse(),
    "meta float32": lambda t: t.to("meta"),
}
CASES = {
    "cut": (cut, [WEIGHTS, "damaged or truncated"]),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), [WEIGHTS, "damaged or truncated"]),
    "missing key": (state_with(lambda s: s.pop("conv_out.bias")), [WEIGHTS, "it lacks 'conv_out.bias'."]),
    "missing keys": (
        state_with(lambda s: [s.pop("conv_out.bias"), s.pop("conv_in.bias")]),
        [WEIGHTS, "it lacks 'conv_in.bias' and 1 more."],
    ),
    "surplus key": (state_with(lambda s: s.update(x=torch.ones(1))), [WEIGHTS, "it has an unknown 'x'."]),
    "wrong shape": (
        state_with(wide),
        [WEIGHTS, "'mid_block.resnets.0.conv1.bias' has shape [31]; expected is [32]"],
    ),
    "not finite": (state_with(not_finite), [WEIGHTS, "'conv_in.bias' holds numbers that are not finite"]),
    "too large": (of(lambda t: t.double() + 1e300), ["'conv_in.bias' holds numbers that are not finite in float32"]),
    **{
        name: (of(change), [f"model.bin: 'conv_in.bias' is of {name}; expected are real numbers: float32"])
        for name, change in KINDS.items()
    },
    "code": (hostile, ["diffusion_pytorch_model.bin", "contains pickled objects", "mkdir", "it is not loaded"]),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), ["unet: has no weights", "safetensors"]),
    "no config": (lambda f: (f / CONFIG).unlink(), ["has no model of diffusers", CONFIG]),
    "config is no JSON": (lambda f: (f / CONFIG).write_text("{"), [CONFIG, "damaged, or not JSON"]),
    "config is deep": (lambda f: (f / CONFIG).write_text("[" * 99999), [CONFIG, "damaged, or not JSON"]),
    "config is a list": (lambda f: (f / CONFIG).write_text("[]"), [CONFIG, "not a JSON object"]),
    "no class": (json_with(CONFIG, _class_name="Foo"), [CONFIG, "Foo is not supported", "UNet2DModel"]),
    "strange config": (json_with(CONFIG, block_out_channels="ab"), [CONFIG, "no UNet2DModel can be built"]),
    "endless": (json_with(CONFIG, layers_per_block=10**9), [CONFIG, "a whole number from 1 to 1000"]),
    "no switch": (json_with(CONFIG, flip_sin_to_cos="no"), [CONFIG, "flip_sin_to_cos=no: it must be True or False"]),
    "another config": (json_with(CONFIG, block_out_channels=[16, 48]), [WEIGHTS, "has shape", "expected is"]),
    "more blocks": (json_with(CONFIG, layers_per_block=2), [WEIGHTS, "it lacks 'down_blocks.0.resnets.1"]),
    "unknown block": (
        json_with(CONFIG, down_block_types=["A", "DownBlock2D"]),
        [CONFIG, "down_block_types: A is not supported"],
    ),
    "uneven": (json_with(CONFIG, up_block_types=["UpBlock2D"] * 2), [CONFIG, "up_block_types: they must mirror"]),
    "dropout": (json_with(CONFIG, dropout="much"), [CONFIG, "no UNet2DModel can be built"]),
    "groups": (json_with(CONFIG, norm_num_groups=7), [CONFIG, "groups=7 must divide"]),
    "time embedding": (json_with(CONFIG, time_embedding_type="fourier"), [CONFIG, "time_embedding_type=fourier"]),
    "class is a list": (json_with(CONFIG, _class_name=["UNet2DModel"]), [CONFIG, "['UNet2DModel'] is not supported"]),
    "norm": (json_with(CONFIG, norm_eps=-1), [CONFIG, "norm_eps=-1.0: it must be positive"]),
    "size": (json_with(CONFIG, sample_size=8.0), [CONFIG, "sample_size=8.0: it must be a whole number"]),
    "no size": (json_with(CONFIG, sample_size=None), [CONFIG, "sample_size=null"]),
    "no scheduler": (lambda f: (f / SCHEDULER).unlink(), ["has no scheduler_config.json", "import.scheduler=<file>"]),
    "betas": (json_with(SCHEDULER, beta_schedule="laplace"), [SCHEDULER, "beta_schedule=laplace", "supported: linear"]),
    "prediction": (json_with(SCHEDULER, prediction_type="foo"), [SCHEDULER, "prediction_type=foo", "v_prediction"]),
    "variance": (json_with(SCHEDULER, variance_type="learned"), [SCHEDULER, "variance_type=learned", "fixed_small"]),
    "betas are a word": (json_with(SCHEDULER, beta_end="x"), [SCHEDULER, "no DDPMScheduler can be built", "'x'"]),
    "learned": (json_with(SCHEDULER, variance_type="learned_range"), [SCHEDULER, "1 outputs per channel"]),
    "index elsewhere": (index({"a": "../part.safetensors"}), ["index.json: lists a file in another folder, '../part"]),
    "index lies": (index({"a": "part.safetensors"}), ["index.json: none of its files contains 'a'"]),
    "index without file": (index({"a": "b.safetensors"}), ["b.safetensors: there is no such file"]),
}


@pytest.mark.parametrize(("damage", "says"), CASES.values(), ids=CASES.keys())
def test_a_damaged_folder_is_refused(damage, says, folder, monkeypatch):
    monkeypatch.chdir(folder)
    damage(folder)
    with pytest.raises(InteropError) as error:
        Pipeline(str(folder)).read()
    message = str(error.value)
    assert message.startswith(str(folder))
    assert message.endswith(".")
    assert "\n" not in message
    for text in says:
        assert text in message
    assert not (folder / "owned").exists()


def test_a_sharded_folder_is_read(folder):
    whole = Pipeline(str(folder)).read()
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(state)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for name, keys in shards.items():
        save_file({key: state[key] for key in keys}, folder / "unet" / name)
    places = {key: name for name, keys in shards.items() for key in keys}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": places}))
    assert Pipeline(str(folder)).read().digest() == whole.digest()


def test_a_variant_and_a_scheduler_elsewhere_are_read(folder, tmp_path_factory):
    whole = Pipeline(str(folder)).read()
    half = {name: tensor.half() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(half, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    (folder / WEIGHTS).unlink()
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "betas.json"
    (folder / SCHEDULER).rename(elsewhere)
    read = Pipeline(str(folder), scheduler=str(elsewhere), variant="fp16").read()
    assert read.schedule == whole.schedule
    for name, tensor in whole.weights.items():
        assert read.weights[name].dtype == torch.float32
        assert torch.equal(read.weights[name], tensor.half().float())


def test_a_variant_that_stands_alone_is_read_and_several_are_named(folder, caplog):
    whole, place = load_file(folder / WEIGHTS), folder / "unet"
    half = {name: tensor.half() for name, tensor in whole.items()}
    (folder / WEIGHTS).unlink()
    save_file(half, place / "diffusion_pytorch_model.fp16.safetensors")
    read = Pipeline(str(folder)).read()
    assert all(
        torch.equal(read.weights[name], Pipeline(str(folder), variant="fp16").read().weights[name])
        for name in read.weights
    )
    assert "has only weights of the variant fp16; these are read" in caplog.text
    torch.save(whole, place / "diffusion_pytorch_model.non_ema.bin")
    with pytest.raises(
        InteropError, match=r"has no weights; .*; it has the variants fp16, non_ema: set import\.variant"
    ):
        Pipeline(str(folder)).read()
    (place / "diffusion_pytorch_model.non_ema.bin").unlink()
    shard = "diffusion_pytorch_model.fp16-00001-of-00001.safetensors"
    (place / "diffusion_pytorch_model.fp16.safetensors").rename(place / shard)
    places = {"weight_map": dict.fromkeys(half, shard)}
    (place / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(places))
    assert Pipeline(str(folder)).read().digest() == read.digest()


def test_a_checkpoint_of_diffusers_training_scripts_is_read_with_its_average(folder):
    """As accelerate and `train_unconditional.py` write it: the scheduler lies in the folder above, if anywhere."""
    network = UNet2DModel.from_pretrained(folder / "unet")
    average = EMAModel(network.parameters(), model_cls=UNet2DModel, model_config=network.config, use_ema_warmup=True)
    for number in (500, 1000):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.5)
        average.step(network.parameters())
        network.save_pretrained(folder / f"checkpoint-{number}" / "unet")
        average.save_pretrained(folder / f"checkpoint-{number}" / "unet_ema")
        (folder / f"checkpoint-{number}" / "scheduler.bin").write_bytes(b"?")  # of the learning rate
    found = Pipeline(str(folder / "checkpoint-1000")).read()
    assert found.name == "checkpoint-1000"
    layout = found.layout
    assert all(torch.equal(t, network.state_dict()[n]) for n, t in layout.to_theirs(found.weights).items())
    expected = UNet2DModel.from_pretrained(folder / "checkpoint-1000" / "unet_ema").state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in layout.to_theirs(found.averages["ema"]).items())
    assert not torch.equal(found.averages["ema"]["stem.weight"], found.weights["stem.weight"])
    assert found.schedule == Pipeline(str(folder)).read().schedule
    for part in ("unet", "scheduler"):
        shutil.rmtree(folder / part)
    with pytest.raises(InteropError, match=r"checkpoint-1000: has no scheduler_config\.json.*import\.scheduler"):
        Pipeline(str(folder / "checkpoint-1000")).read()
    with pytest.raises(
        InteropError,
        match=r"but training checkpoints: checkpoint-500, checkpoint-1000; choose one, such as .*=.*-1000",
    ):
        Pipeline(str(folder)).read()
    config = folder / "checkpoint-500" / "unet_ema" / "config.json"
    config.write_text(config.read_text().replace('"dropout": 0.0', '"dropout": 0.5'))
    with pytest.raises(InteropError, match="unet_ema: its configuration differs"):
        Pipeline(str(folder / "checkpoint-500")).read()


@pytest.mark.parametrize("size", [0, 10, 3000])
@pytest.mark.parametrize("legacy", [False, True])
def test_half_a_torch_file_is_refused(size, legacy, tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"a": torch.ones(2000)}, path, _use_new_zipfile_serialization=not legacy)
    assert read_tensors(path).keys() == {"a"}
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InteropError, match="damaged or truncated"):
        read_tensors(path)


def test_a_flipped_bit_in_a_torch_file_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"a": torch.ones(2000)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)
    with pytest.raises(InteropError, match="damaged or truncated"):
        read_tensors(path)


def test_a_damaged_file_of_the_hubs_cache_is_refused(tmp_path):
    """Its layout: snapshots/<revision>/<name> links to blobs/<sha256 of the content>."""
    name, blobs, snapshot = "model.safetensors", tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_file({"a": torch.ones(20)}, tmp_path / name)
    blob = (tmp_path / name).rename(blobs / hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    (snapshot / name).symlink_to(blob)
    assert read_tensors(snapshot / name)["a"].sum() == 20
    blob.write_bytes(blob.read_bytes()[:-1] + b"\1")
    with pytest.raises(InteropError, match=r"its sha256 is not the hub's; delete .*blobs.* and download it again"):
        read_tensors(snapshot / name)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_torch_file_does_not_run(legacy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Code()}, "model.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InteropError, match=r"model\.pt: contains pickled objects \(.*mkdir\), which could run code"):
        read_tensors(tmp_path / "model.pt")
    assert not (tmp_path / "owned").exists()


def test_what_holds_no_tensors_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": 1}, tmp_path / "numbers.pt")
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("x", "y")
    (tmp_path / "text.pt").write_text("hello")
    for name, says in {"list": "no mapping", "numbers": "no mapping", "archive": "damaged", "text": "damaged"}.items():
        with pytest.raises(InteropError, match=rf"{name}\.pt: .*{says}"):
            read_tensors(tmp_path / f"{name}.pt")
    with pytest.raises(InteropError, match="is a folder"):
        read_tensors(tmp_path)


def test_offline_the_hub_is_named_as_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InteropError, match="nobody/nothing: there is no such folder, and the hub cannot be reached"):
        local("nobody/nothing")
    with pytest.raises(InteropError, match="a/b/c: there is no such folder or file"):
        local("a/b/c")


def test_a_repository_of_the_hub_is_named_after_its_owner(folder, monkeypatch):
    asked = {}

    def download(repository, **options):
        asked.update(options, repository=repository)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    imported = Pipeline("google/ddpm-cifar10-32", revision="main").read()
    assert imported.name == "google-ddpm-cifar10-32"
    assert asked["repository"] == "google/ddpm-cifar10-32"
    assert asked["revision"] == "main"
    assert not any(pattern.endswith((".pkl", ".py", "*")) for pattern in asked["allow_patterns"])


def test_schedulers_of_other_families_are_read_or_refused():
    edm = from_scheduler({"_class_name": "EDMEulerScheduler", "sigma_data": 0.25}, "s.json", 1)
    assert edm.parameterization == {
        "_target_": "denoiselab.parameterizations.edm",
        "_partial_": True,
        "sigma_data": 0.25,
    }
    flow = from_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "s.json", 1)
    assert flow.schedule["_target_"] == "denoiselab.schedules.Flow"
    with pytest.raises(InteropError, match=r"s\.json: CMStochasticIterativeScheduler states no betas"):
        from_scheduler({"_class_name": "CMStochasticIterativeScheduler"}, "s.json", 1)


@pytest.mark.parametrize("kind", DEFAULT_BETAS)
def test_a_scheduler_that_states_no_betas_has_its_class_own(kind):
    theirs = getattr(diffusers, kind)()
    found = from_scheduler({"_class_name": kind}, "s.json", 1).schedule
    alpha = construct(found, "schedule").nodes().alpha
    assert torch.allclose(alpha.square(), theirs.alphas_cumprod.double(), rtol=1e-4, atol=0)
    start = from_scheduler({"_class_name": kind, "beta_schedule": "linear"}, "s.json", 1).schedule["betas"]["start"]
    assert start == theirs.config.beta_start


def test_a_scheduler_that_shifts_its_noise_is_refused():
    for content in ({"_class_name": "CogVideoXDDIMScheduler"}, {"beta_schedule": "linear", "snr_shift_scale": 3.0}):
        with pytest.raises(InteropError, match="snr_shift_scale"):
            from_scheduler(content, "s.json", 1)


@pytest.mark.parametrize(
    "content",
    [
        {"beta_start": None},
        {"beta_schedule": ["linear"]},
        {"beta_schedule": "linear", "num_train_timesteps": [1]},
        {"beta_schedule": "linear", "num_train_timesteps": 10**12},
        {"beta_schedule": "linear", "num_train_timesteps": 10.5},
        {"trained_betas": "abc"},
        {"trained_betas": [[0.1]]},
        {"trained_betas": [0.1, 0.2], "prediction_type": ["epsilon"]},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": "a"},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 0},
        {"_class_name": "EDMEulerScheduler", "sigma_data": "x"},
        {"_class_name": "EDMEulerScheduler", "sigma_data": float("nan")},
    ],
    ids=str,
)
def test_schedulers_of_strange_values_are_one_sentence(content):
    with pytest.raises(InteropError, match=r"^s\.json: [^\n]*\.$"):
        from_scheduler({"_class_name": "DDPMScheduler", **content}, "s.json", 1)


@pytest.mark.parametrize(
    "content",
    [
        {"block_out_channels": "abc"},
        {"block_out_channels": 5},
        {"block_out_channels": []},
        {"down_block_types": 5},
        {"scaling_factor": "x"},
        {"scaling_factor": float("nan")},
        {"shift_factor": float("inf")},
        {"norm_num_groups": 0},
        {"_class_name": {}},
    ],
    ids=str,
)
def test_autoencoders_of_strange_values_are_one_sentence(content, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", "sample_size": 8, **content}))
    with pytest.raises(InteropError, match=rf"^{tmp_path}/config\.json: [^\n]*\.$"):
        codec(tmp_path, [4, 8, 8])


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("tokenizer/tokenizer_config", {"model_max_length": "x"}),
        ("text_encoder/config", {"max_position_embeddings": None}),
    ],
)
def test_text_encoders_of_strange_values_are_one_sentence(part, content, tmp_path):
    for name, plain in (("tokenizer/tokenizer_config", {}), ("text_encoder/config", {"hidden_size": 6})):
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.json").write_text(json.dumps({**plain, **(content if name == part else {})}))
    with pytest.raises(InteropError, match=rf"^{tmp_path}/{part}\.json: [^\n]*\.$"):
        text_conditioner(tmp_path, 6)

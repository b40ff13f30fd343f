"""Files in the layouts of openai, ermongroup and pesser, made from models of diffusers, which has those networks too.

Nobody ships the originals as a package, so the networks are diffusers', of the options that make them the originals;
how the originals name their layers is written down here a second time, independently of the package.
"""

import json

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from randomised import batch, off, randomised

from denoiselab.interop import ddim, dit
from denoiselab.interop.openai import classifier, unets
from denoiselab.interop.weights.state_dicts import InteropError
from denoiselab.networks import ADMClassifier, ADMUNet, DDPMUNet, DiT
from denoiselab.networks.conditioning import Conditioning
from denoiselab.schedules import betas

CHANNELS, LEVELS, BLOCKS = 32, 3, 2
SHAPES = {"block_out_channels": (32, 32, 64), "layers_per_block": BLOCKS, "norm_num_groups": 32, "sample_size": 16}


def sequence(state, steps):
    """Copy layers from one name to another: each step is (from, to)."""
    out = {}
    for theirs, official in steps:
        for kind in ("weight", "bias"):
            if f"{theirs}.{kind}" in state:
                out[f"{official}.{kind}"] = state[f"{theirs}.{kind}"]
    return out


def openai_state(model, legacy_heads=None, conv_resampling=False, heads_up=None):
    """The state of a model in the names of guided-diffusion: blocks counted through, and a sequence in each."""
    state, steps, attentions = model.state_dict(), [], []

    def residual(theirs, official):
        inside = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
        inside |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
        steps.extend((f"{theirs}.{a}", f"{official}.{b}") for a, b in inside.items())

    steps += [("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2")]
    steps += [("conv_in", "input_blocks.0.0"), ("class_embedding", "label_emb")]
    number = 1
    for level in range(LEVELS):
        for block in range(BLOCKS):
            residual(f"down_blocks.{level}.resnets.{block}", f"input_blocks.{number}.0")
            attentions.append((f"down_blocks.{level}.attentions.{block}", f"input_blocks.{number}.1"))
            number += 1
        if level < LEVELS - 1:
            if conv_resampling:
                steps.append((f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{number}.0.op"))
            else:
                residual(f"down_blocks.{level}.downsamplers.0", f"input_blocks.{number}.0")
            number += 1
    residual("mid_block.resnets.0", "middle_block.0")
    attentions.append(("mid_block.attentions.0", "middle_block.1"))
    residual("mid_block.resnets.1", "middle_block.2")
    number = 0
    for level in range(LEVELS):
        attends = f"up_blocks.{level}.attentions.0.to_q.weight" in state
        for block in range(BLOCKS + 1):
            residual(f"up_blocks.{level}.resnets.{block}", f"output_blocks.{number}.0")
            attentions.append((f"up_blocks.{level}.attentions.{block}", f"output_blocks.{number}.1"))
            number += 1
        if level < LEVELS - 1:
            official = f"output_blocks.{number - 1}.{2 if attends else 1}"
            if conv_resampling:
                steps.append((f"up_blocks.{level}.upsamplers.0.conv", f"{official}.conv"))
            else:
                residual(f"up_blocks.{level}.upsamplers.0", official)
    steps += [("conv_norm_out", "out.0"), ("conv_out", "out.2")]
    found = sequence(state, steps)
    for theirs, official in attentions:
        if f"{theirs}.to_q.weight" not in state:
            continue
        found |= sequence(state, [(f"{theirs}.group_norm", f"{official}.norm")])
        for kind in ("weight", "bias"):
            rows = [state[f"{theirs}.to_{name}.{kind}"] for name in "qkv"]
            if legacy_heads is not None:  # the rows of a head stand together
                heads = heads_up if heads_up and official.startswith("output") else legacy_heads
                rows = [part for head in zip(*(r.chunk(heads) for r in rows), strict=True) for part in head]
            out = state[f"{theirs}.to_out.0.{kind}"]
            deep = (lambda t: t[..., None]) if kind == "weight" else (lambda t: t)
            found[f"{official}.qkv.{kind}"], found[f"{official}.proj_out.{kind}"] = deep(torch.cat(rows)), deep(out)
    return found


ADM = {
    **SHAPES,
    "resnet_time_scale_shift": "scale_shift",
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "attn_norm_num_groups": 32,
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "out_channels": 6,
}
IDDPM = {
    **SHAPES,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}


@pytest.mark.parametrize(
    ("config", "flags", "written"),
    [
        (
            {**ADM, "attention_head_dim": 16, "num_class_embeds": 7},
            {"num_head_channels": 16, "use_new_attention_order": True},
            {},
        ),
        ({**ADM, "block_out_channels": (32, 64, 64), "attention_head_dim": 16}, {"num_heads": 4}, {"legacy_heads": 4}),
        (
            {**ADM, "block_out_channels": (32, 64, 64), "attention_head_dim": 16},
            {"num_heads": 4, "num_heads_upsample": 2, "num_head_channels": -1},
            {"legacy_heads": 4, "heads_up": 2},
        ),
        (
            {**IDDPM, "attention_head_dim": None},
            {"num_heads": 1, "diffusion_steps": 400, "rescale_timesteps": True},
            {"legacy_heads": 1, "conv_resampling": True},
        ),
    ],
    ids=["guided-diffusion, new order", "guided-diffusion, old order", "heads of the way up", "improved-diffusion"],
)
def test_openai_checkpoints_are_read(config, flags, written, tmp_path):
    model = randomised(UNet2DModel(**config))
    for attention in (m for block in model.up_blocks for m in getattr(block, "attentions", ())):
        attention.heads = written.get("heads_up", attention.heads)
    torch.save(openai_state(model, **written), tmp_path / "model.pt")
    source = unets.UNet(str(tmp_path / "model.pt"), "cosine", image_size=16, **flags)
    imported = source.read()
    network = ADMUNet(**imported.layout.options).eval()
    network.load_state_dict(imported.weights)
    x, label = batch((3, 16, 16))
    labels = torch.tensor([0, 3, 6]) if "num_class_embeds" in config else None
    with torch.no_grad():
        ours = network(x, label, Conditioning(class_label=labels))
        assert off(ours, model(x, label, class_labels=labels).sample) < 1e-5
    assert imported.denoiser["variance"]["_target_"].endswith("LearnedRange" if "out_channels" in config else "Large")
    assert imported.denoiser["time_label"]["scale"] == (2.5 if "rescale_timesteps" in flags else 1)
    back = imported.layout.to_theirs(network.state_dict())
    official = openai_state(model, **written)
    assert back.keys() == official.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in official.items())


def ddim_state(model):
    """The state of a model in the names that ermongroup and pesser share: levels counted from the finest."""
    state, steps, out = model.state_dict(), [], {}

    def residual(theirs, official):
        inside = {"norm1": "norm1", "conv1": "conv1", "time_emb_proj": "temb_proj", "norm2": "norm2", "conv2": "conv2"}
        steps.extend(
            (f"{theirs}.{a}", f"{official}.{b}") for a, b in (*inside.items(), ("conv_shortcut", "nin_shortcut"))
        )

    def attention(theirs, official):
        if f"{theirs}.to_q.weight" in state:
            steps.append((f"{theirs}.group_norm", f"{official}.norm"))
            for name, present in {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
                out[f"{official}.{present}.weight"] = state[f"{theirs}.{name}.weight"][:, :, None, None]
                out[f"{official}.{present}.bias"] = state[f"{theirs}.{name}.bias"]

    for level in range(LEVELS):
        for side, mirrored, count in (("down", level, BLOCKS), ("up", LEVELS - 1 - level, BLOCKS + 1)):
            for block in range(count):
                residual(f"{side}_blocks.{mirrored}.resnets.{block}", f"{side}.{level}.block.{block}")
                attention(f"{side}_blocks.{mirrored}.attentions.{block}", f"{side}.{level}.attn.{block}")
            sampler = f"{side}_blocks.{mirrored}.{side}samplers.0.conv"
            steps.append((sampler, f"{side}.{level}.{side}sample.conv"))
    residual("mid_block.resnets.0", "mid.block_1")
    attention("mid_block.attentions.0", "mid.attn_1")
    residual("mid_block.resnets.1", "mid.block_2")
    steps += [("time_embedding.linear_1", "temb.dense.0"), ("time_embedding.linear_2", "temb.dense.1")]
    steps += [("conv_in", "conv_in"), ("conv_norm_out", "norm_out"), ("conv_out", "conv_out")]
    return sequence(state, steps) | out


HO = {
    **IDDPM,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}


@pytest.mark.parametrize("kind", ["pesser", "ermongroup"])
def test_checkpoints_of_ddim_are_read(kind, tmp_path):
    model, average = randomised(UNet2DModel(**HO)), randomised(UNet2DModel(**HO), seed=1)
    weights, ema = ddim_state(model), ddim_state(average)
    parallel = {f"module.{name}": tensor for name, tensor in weights.items()}
    optimizer = torch.optim.Adam(model.parameters()).state_dict()
    torch.save(weights if kind == "pesser" else [parallel, optimizer, 3, 1000, ema], tmp_path / "model.ckpt")
    imported = ddim.Checkpoint(str(tmp_path / "model.ckpt")).read()
    states = {"weights": (imported.weights, model)}
    if kind == "ermongroup":
        states["average"] = (imported.averages["ema"], average)
    x, label = batch((3, 16, 16))
    for state, theirs in states.values():
        network = DDPMUNet(**imported.layout.options).eval()
        network.load_state_dict(state)
        with torch.no_grad():
            assert off(network(x, label), theirs(x, label).sample) < 1e-5
    assert imported.layout.options["shape"] == [3, 32, 32]  # the attention at 16x16
    back = imported.layout.to_theirs(imported.weights)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        # Millions of parameters: Dhariwal and Nichol, arXiv 2105.05233, table 4; Nichol and Dhariwal, 2102.09672.
        ({"channels": 192, "multipliers": [1, 2, 3, 4], "blocks": 3, "num_classes": 1000, "outputs": 2}, 296),
        ({"channels": 256, "multipliers": [1, 1, 2, 2, 4, 4], "blocks": 2, "num_classes": 1000, "outputs": 2}, 554),
    ],
    ids=["64x64_diffusion.pt", "256x256_diffusion.pt"],
)
def test_options_follow_from_the_weights_of_the_released_sizes(preset, count):
    """On the meta device: the names and shapes of the official file tell all options but the heads."""
    size = {4: 64, 6: 256}[len(preset["multipliers"])]
    attention = [level for level in range(len(preset["multipliers"])) if size // 2**level in (32, 16, 8)]
    options = {"shape": [3, size, size], **preset, "attention_levels": attention, "dropout": 0.0, "null_class": False}
    with torch.device("meta"):
        state = ADMUNet(**options, head_channels=64).state_dict()
    names = unets.names({**options, "block_resampling": True, "head_channels": 64, "heads": 1}, new_order=False)
    given = unets.entries({**options, "block_resampling": True}, names)
    official = unets.Layout(ADMUNet, options, given).to_theirs(state)
    official["label_emb.weight"] = state["classes.weight"]
    assert round(sum(tensor.numel() for tensor in official.values()) / 1e6) == count
    assert f"input_blocks.{len(preset['multipliers']) * (preset['blocks'] + 1) - 1}.0.in_layers.0.weight" in official
    found = unets.unet_layout(official, "64x64_diffusion.pt", {"heads": 1, "head_channels": 64}).options
    assert {key: found[key] for key in options} == options


def test_the_classifier_is_read(tmp_path):
    """Its half of a UNet is that of the network above; its pooling is built here, in the official names."""
    options = {"channels": 32, "multipliers": [1, 2], "blocks": 1, "attention_levels": [1], "head_channels": 16}
    network = randomised(ADMClassifier((3, 16, 16), 5, **options))
    state = network.state_dict()
    layout = classifier.classifier_layout(official_classifier(state), "c.pt", depth=1, head_channels=16)
    assert layout.options == {**options, "shape": [3, 16, 16], "num_classes": 5} | {
        "scale_shift": True,
        "block_resampling": True,
    }
    torch.save(official_classifier(state), tmp_path / "c.pt")
    read = classifier.Classifier(str(tmp_path / "c.pt"), classifier_depth=1, num_head_channels=16).read()
    assert all(torch.equal(read.network.get_parameter(name), tensor) for name, tensor in state.items())
    assert not any(module.training for module in read.modules())


def official_classifier(state):
    """Our state in the official names of this classifier, written by hand."""
    places = {"time.1": "time_embed.0", "time.3": "time_embed.2", "stem": "input_blocks.0.0", "norm": "out.0"}
    places |= {"down.0.0": "input_blocks.1.0", "down.1.0": "input_blocks.2.0", "down.2.0": "input_blocks.3.0"}
    places |= {"down.2.1": "input_blocks.3.1", "pool": "out.2"}
    places |= {f"middle.{n}": f"middle_block.{n}" for n in range(3)}
    inside = {"norm_in": "in_layers.0", "conv_in": "in_layers.2", "embedding": "emb_layers.1"}
    inside |= {"norm_out": "out_layers.0", "conv_out": "out_layers.3", "skip": "skip_connection"}
    found = {}
    for name, tensor in state.items():
        place = next(p for p in sorted(places, key=len, reverse=True) if name.startswith(f"{p}."))
        rest, _, kind = name.removeprefix(f"{place}.").rpartition(".")
        if place == "pool":
            if kind == "position":
                found["out.2.positional_embedding"] = tensor.T
                continue
            official = {"qkv": "qkv_proj", "out": "c_proj"}[rest]
            found[f"out.2.{official}.{kind}"] = tensor[..., None] if kind == "weight" else tensor
        elif rest in ("qkv", "out"):
            if rest == "qkv":
                q, k, v = (part.chunk(len(part) // 16) for part in tensor.chunk(3))
                tensor = torch.cat([part for head in zip(q, k, v, strict=True) for part in head])
            official = {"qkv": "qkv", "out": "proj_out"}[rest]
            found[f"{places[place]}.{official}.{kind}"] = tensor[..., None] if kind == "weight" else tensor
        else:
            official = inside.get(rest, rest)
            found[".".join(filter(None, (places[place], official, kind)))] = tensor
    return found


def test_the_chain_is_that_of_the_flags(tmp_path):
    """improved-diffusion's cosine chain of 4000 steps; guided-diffusion's linear one."""
    torch.save(openai_state(randomised(UNet2DModel(**IDDPM)), 4, conv_resampling=True), tmp_path / "m.pt")
    read = unets.UNet(str(tmp_path / "m.pt"), "cosine", num_heads=4, image_size=16, diffusion_steps=4000).read()
    assert read.schedule["betas"].pop("_target_") == "denoiselab.schedules.betas.cosine"
    assert betas.cosine(**read.schedule["betas"]).shape == (4000,)
    read = unets.UNet(str(tmp_path / "m.pt"), "linear", num_heads=4, image_size=16).read()
    assert read.schedule["betas"].pop("_target_") == "denoiselab.schedules.betas.linear"
    table = betas.linear(**read.schedule["betas"])
    assert float(table[0]) == pytest.approx(1e-4)
    assert float(table[-1]) == pytest.approx(0.02)


def test_what_the_weights_do_not_tell_must_be_given(tmp_path):
    with pytest.raises(ValueError, match="num_heads=None and num_head_channels=None: set one of them"):
        unets.UNet("x.pt", "linear")
    with pytest.raises(ValueError, match="num_heads_upsample=2: num_head_channels=64 sets the heads"):
        unets.UNet("x.pt", "linear", num_head_channels=64, num_heads_upsample=2)
    state = openai_state(randomised(UNet2DModel(**IDDPM)), 4, conv_resampling=True)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(InteropError, match=r"m\.pt: no released model has the multipliers \[1, 1, 2\]"):
        unets.UNet(str(tmp_path / "m.pt"), "linear", num_heads=4).read()
    state["input_blocks.0.0.weight"] = torch.cat([state["input_blocks.0.0.weight"]] * 2, 1)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(InteropError, match=r"m\.pt: a super-resolution network"):
        unets.UNet(str(tmp_path / "m.pt"), "linear", num_heads=4, image_size=16).read()
    with pytest.raises(InteropError, match=r"m\.pt: weights of another network: it lacks 'conv_in.weight'"):
        ddim.Checkpoint(str(tmp_path / "m.pt")).read()


def test_a_classifier_guides_samples_from_the_command_line(finished, tmp_path, invoke):
    """What it cost stands beside the network's evaluations; one of other images or without a file is refused."""
    options = {"channels": 32, "multipliers": [1, 2], "blocks": 1, "attention_levels": [1], "head_channels": 16}

    def command(channels, scale, out, *more):
        state = randomised(ADMClassifier((channels, 8, 8), 10, **options)).state_dict()
        torch.save(official_classifier(state), tmp_path / "c.pt")
        file = {"path": tmp_path / "c.pt", "classifier_depth": 1, "num_head_channels": 16}
        return invoke(
            "sample.py", f"ckpt={finished}", "classifier_guidance=adm", f"classifier_guidance.scale={scale}",
            *(f"classifier_guidance.classifier.{key}={value}" for key, value in file.items()),
            *(() if "task=frontier" in more else ("sampler.steps=3", "num_samples=4")),
            f"out={tmp_path / out}", *more,
        )  # fmt: skip

    records = []
    for scale, out in ((0.0, "plain"), (5.0, "guided")):
        result = command(1, scale, out, "format=npz")
        assert result.code == 0, result.err
        records.append(json.loads((tmp_path / out / "samples.json").read_text()))
    assert [r["nfe"] for r in records] == [3, 3]
    assert [r["network_evaluations"] for r in records] == [3, 3]
    assert [r["classifier_evaluations"] for r in records] == [0, 3]
    images = [np.load(tmp_path / out / "samples.npz")["images"] for out in ("plain", "guided")]
    assert not np.array_equal(*images)
    result = command(3, 1.0, "none")
    assert result.code == 2
    assert "the classifier takes images [3, 8, 8], the model makes [1, 8, 8]" in result.err
    result = command(1, 1.0, "none", f"classifier_guidance.classifier.path={tmp_path / 'gone.pt'}")
    assert result.code == 2
    assert "gone.pt: there is no such file" in result.err
    result = invoke("sample.py", f"ckpt={finished}", "classifier_guidance=adm")
    assert result.code == 2
    assert "classifier_guidance.classifier.path: is not given" in result.err
    result = command(1, 1.0, "none", "task=likelihood")
    assert result.code == 2
    assert "classifier_guidance=adm: not with this task, but with task=edit, frontier, generate," in result.err
    assert not (tmp_path / "none").exists()
    few = ("task.samplers=[ddim]", "task.nfe=[2]", "task.num_samples=4")
    for scale in (5.0, 6.0):
        result = command(1, scale, "frontier", "task=frontier", *few)
        assert result.code == 0, result.err
    cells = json.loads((tmp_path / "frontier" / "frontier.json").read_text())
    assert sorted(cell["classifier_scale"] for cell in cells) == [5.0, 6.0]
    assert [(cell["network_evaluations"], cell["classifier_evaluations"]) for cell in cells] == [(2, 2)] * 2


@pytest.mark.parametrize("kind", ["openai", "dit"])
def test_a_run_is_exported_and_comes_back(kind, tmp_path, invoke):
    """Through files in both directions: import, export, import; the network and its chain are the same, to the bit."""
    given = {"openai": ["import.noise_schedule=cosine", "import.num_head_channels=16", "import.image_size=16"]}
    given["dit"] = ["import.num_heads=2"]
    if kind == "openai":
        model = randomised(UNet2DModel(**{**ADM, "attention_head_dim": 16, "num_class_embeds": 7}))
        torch.save(openai_state(model), tmp_path / "first.pt")
    else:
        options = {"shape": [4, 8, 8], "width": 32, "depth": 2, "heads": 2, "num_classes": 5, "outputs": 2}
        torch.save(dit.to_official(options, randomised(DiT(**options)).state_dict()), tmp_path / "first.pt")

    def brought(file, logs, *more):
        source = [f"import={kind}", f"import.path={file}", *given[kind], f"log_dir={tmp_path / logs}"]
        result = invoke("sample.py", *source, *more)
        assert result.code == 0, result.err
        (run,) = (tmp_path / logs / "imported").iterdir()
        return run

    first = brought(tmp_path / "first.pt", "a", "task=export", f"task.format={kind}", f"out={tmp_path / 'out'}")
    written = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    original = torch.load(tmp_path / "first.pt", weights_only=True)
    assert written.keys() == original.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in original.items())
    if kind == "openai":
        flags = json.loads((tmp_path / "out" / "flags.json").read_text())
        assert (flags["channel_mult"], flags["attention_resolutions"]) == ("1,1,2", "8,4")
        assert (flags["noise_schedule"], flags["class_cond"], flags["learn_sigma"]) == ("cosine", True, True)
    again = invoke("sample.py", f"ckpt={first}", "task=export", f"task.format={kind}", f"out={tmp_path / 'out'}")
    assert again.code == 2
    other = invoke(
        "sample.py", f"ckpt={first}", "task=export", f"task.format={'dit' if kind == 'openai' else 'openai'}"
    )
    assert other.code == 2
    assert "and the network is" in other.err

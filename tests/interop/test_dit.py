"""Files of facebookresearch/DiT.

Nobody ships the original as a package. diffusers' model is it but for two numbers, which are set to the original's
here; how the original names its layers is written down a second time, after diffusers' own conversion script.
"""

import argparse
from pathlib import PurePosixPath

import pytest
import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from randomised import batch, off, randomised

from denoiselab.app.building.checks import check_guidance
from denoiselab.errors import BadInput
from denoiselab.from_config import build_model
from denoiselab.guidance import Guidance, bind
from denoiselab.interop.dit import Checkpoint, to_official
from denoiselab.interop.weights.state_dicts import InteropError
from denoiselab.networks import Conditioning

CLASSES = torch.tensor([0, 4, 5])


def original(**options):
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3, "num_embeds_ada_norm": 5}
    model = randomised(
        DiTTransformer2DModel(**{"sample_size": 8, "out_channels": 8, "norm_eps": 1e-6, **sizes, **options})
    )
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return model


def official(model):
    """Its state in the original's names."""
    state = model.state_dict()
    width, side = model.inner_dim, model.config.sample_size // model.config.patch_size
    out = {"pos_embed": get_2d_sincos_pos_embed(width, side, base_size=side, output_type="pt").float()[None]}
    steps = [
        ("pos_embed.proj", "x_embedder.proj"),
        ("transformer_blocks.0.norm1.emb.timestep_embedder.linear_1", "t_embedder.mlp.0"),
        ("transformer_blocks.0.norm1.emb.timestep_embedder.linear_2", "t_embedder.mlp.2"),
        ("transformer_blocks.0.norm1.emb.class_embedder.embedding_table", "y_embedder.embedding_table"),
        ("proj_out_1", "final_layer.adaLN_modulation.1"),
        ("proj_out_2", "final_layer.linear"),
    ]
    for n in range(model.config.num_layers):
        theirs, ours = f"transformer_blocks.{n}", f"blocks.{n}"
        steps += [
            (f"{theirs}.norm1.linear", f"{ours}.adaLN_modulation.1"),
            (f"{theirs}.attn1.to_out.0", f"{ours}.attn.proj"),
        ]
        steps += [(f"{theirs}.ff.net.0.proj", f"{ours}.mlp.fc1"), (f"{theirs}.ff.net.2", f"{ours}.mlp.fc2")]
        for kind in ("weight", "bias"):
            out[f"{ours}.attn.qkv.{kind}"] = torch.cat([state[f"{theirs}.attn1.to_{x}.{kind}"] for x in "qkv"])
    for theirs, ours in steps:
        out |= {
            f"{ours}.{kind}": state[f"{theirs}.{kind}"] for kind in ("weight", "bias") if f"{theirs}.{kind}" in state
        }
    return out


def network_of(imported, weights):
    network = imported.layout.module(**imported.layout.options).eval()
    network.load_state_dict(weights)
    return network


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_file_in_another_precision_is_read(dtype, tmp_path):
    state = {name: tensor.to(dtype) for name, tensor in official(original()).items()}
    torch.save(state, tmp_path / "x.pt")
    found = Checkpoint(str(tmp_path / "x.pt"), num_heads=2).read()
    assert torch.equal(found.weights["head.weight"], state["final_layer.linear.weight"].float())


@pytest.mark.parametrize("options", [{}, {"patch_size": 4, "out_channels": None, "in_channels": 3}])
def test_released_file_is_the_same_function_and_is_written_back(options, tmp_path):
    theirs = original(**options)
    state = official(theirs)
    torch.save(state, tmp_path / "DiT-tiny.pt")
    found = Checkpoint(str(tmp_path / "DiT-tiny.pt"), num_heads=2).read()
    assert found.name == "DiT-tiny"
    x, label = batch(found.layout.options["shape"])
    ours = network_of(found, found.weights)
    assert off(ours(x, label, Conditioning(CLASSES)), theirs(x, label, CLASSES).sample) <= 1e-5
    back = to_official(found.layout.options, found.weights)
    assert back.keys() == state.keys()
    assert all(torch.allclose(back[name], state[name], atol=1e-7) for name in state)
    assert found.config()["conditioner"]["num_classes"] == 5


def forward_with_cfg(model, x, t, classes, scale):
    """The original's: `x` is one half; three channels of eps are guided, the rest is each half's own."""
    out = model(torch.cat((x, x)), torch.cat((t, t)), torch.cat((classes, torch.full_like(classes, 5)))).sample
    eps, rest = out[:, :3], out[:, 3:]
    cond, uncond = eps.chunk(2)
    half = uncond + scale * (cond - uncond)
    return torch.cat((torch.cat((half, half)), rest), dim=1)[: len(x)]


@pytest.mark.parametrize(("options", "differs"), [({}, False), ({"guided_channels": None}, True)])
def test_guidance_is_that_of_the_original(options, differs, tmp_path):
    theirs = original()
    torch.save(official(theirs), tmp_path / "x.pt")
    found = Checkpoint(str(tmp_path / "x.pt"), num_heads=2, **options).read()
    model = build_model(found.config())
    model.denoiser.network.load_state_dict(found.weights)
    model.denoiser.eval()
    x, _ = batch([4, 8, 8])
    level, index = model.denoiser.schedule.nodes().unbind()[17], torch.arange(3)
    labels = model.conditioner
    guided = bind(
        model.denoiser, labels.sample(index), labels.null(index), Guidance(4.0), channels=labels.guided_channels
    )(x, level)
    expected = forward_with_cfg(theirs, x, torch.full((3,), 17.0), index, 4.0)[:, :4]
    assert off(guided.eps[:, :3], expected[:, :3]) <= 1e-5
    assert (off(guided.eps[:, 3:], expected[:, 3:]) > 0.1) == differs
    assert differs or off(guided.eps, expected) <= 1e-5
    labels.guided_channels = 9
    with pytest.raises(BadInput, match=r"conditioner\.guided_channels=9: the network has 4; give at most that"):
        check_guidance(model, [Guidance()], "guidance=1.0")


def test_a_model_trained_without_dropped_classes_keeps_its_last_class(tmp_path):
    theirs = original()
    state = official(theirs)
    torch.save(state, tmp_path / "x.pt")
    found = Checkpoint(str(tmp_path / "x.pt"), num_heads=2, class_dropout_prob=0.0).read()
    x, label = batch(found.layout.options["shape"])
    last = torch.full((3,), 5)
    ours = network_of(found, found.weights)
    assert off(ours(x, label, Conditioning(last)), theirs(x, label, last).sample) <= 1e-5
    labels = found.config()["conditioner"]
    assert (labels["num_classes"], labels["dropout"], labels["null_class"]) == (6, 0.0, False)
    assert to_official(found.layout.options, found.weights)["y_embedder.embedding_table.weight"].shape == (6, 16)
    for classes, has_null in ((6, False), (5, True), (9, True)):  # what the file itself says goes before the option
        content = {"model": state, "ema": state, "opt": {}, "args": argparse.Namespace(num_classes=classes)}
        torch.save(content, tmp_path / "y.pt")
        conditioner = Checkpoint(str(tmp_path / "y.pt"), num_heads=2).read().config()["conditioner"]
        assert (conditioner["num_classes"], conditioner["null_class"]) == (6 - has_null, has_null)
    with pytest.raises(ValueError, match=r"class_dropout_prob=1\.0"):
        Checkpoint("x.pt", class_dropout_prob=1.0)


def test_file_of_the_training_script_has_an_average_beside_the_weights(tmp_path):
    theirs = original()
    weights = official(theirs)
    average = {name: tensor if name == "pos_embed" else tensor / 2 for name, tensor in weights.items()}
    content = {"model": weights, "ema": average, "opt": {"state": {}, "param_groups": []}}
    torch.save({**content, "args": argparse.Namespace(model="DiT-S/2")}, tmp_path / "0050000.pt")
    found = Checkpoint(str(tmp_path / "0050000.pt"), num_heads=2).read()
    assert set(found.averages) == {"ema"}
    assert all(torch.equal(found.averages["ema"][name], found.weights[name] / 2) for name in found.weights)


def test_what_is_not_such_a_file_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "x.pt"

    def refused(state, says, **options):
        torch.save(state, path)
        with pytest.raises(InteropError, match=says) as error:
            Checkpoint(str(path), **{"num_heads": 2, **options}).read()
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)

    state = official(original())
    refused({}, "no mapping of names")
    refused({"conv_in.weight": torch.ones(2)}, "lacks 'x_embedder.proj.weight'")
    refused(state, "import.num_heads", num_heads=None)
    refused({**state, "pos_embed": state["pos_embed"] + 0.1}, "pos_embed")
    refused({**state, "pos_embed": state["pos_embed"].long()}, "pos_embed' is of int64")
    refused({**state, "x_embedder.proj.weight": torch.ones(16, 4, 0, 0)}, "x_embedder.proj.weight' has shape")
    refused({**state, "new": torch.ones(2)}, "unknown 'new'")
    refused(
        {name: t for name, t in state.items() if "fc2.bias" not in name}, "lacks 'blocks.0.mlp.fc2.bias' and 2 more"
    )
    refused({**state, "t_embedder.mlp.0.bias": torch.ones(2)}, "has shape .2.")
    refused({**state, "t_embedder.mlp.0.bias": torch.full((16,), torch.nan)}, "not finite")
    refused({**state, "object": PurePosixPath("x")}, "could run code")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InteropError, match="damaged"):
        Checkpoint(str(path)).read()
    with pytest.raises(InteropError, match="no such file"):
        Checkpoint(str(tmp_path / "y.pt")).read()


def test_a_dit_that_the_original_cannot_run_is_not_written():
    options = {"shape": [4, 8, 8], "num_classes": 3}
    changes = ({"frequency_shift": 1}, {"qk_norm": True}, {"num_classes": None}, {"shape": [4, 8, 4]})
    for change in (*changes, {"vector_features": 3}):
        with pytest.raises(ValueError, match=next(iter(change))):
            to_official({**options, **change}, {})

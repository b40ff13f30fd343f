"""Recipes of latent diffusion that run on small machines."""

import json

from configurations import composing
from frozen_models import write_text_encoder
from omegaconf import OmegaConf
from published.mnist import write_mnist

from denoiselab.app.building import check_run
from denoiselab.app.config import overrides, resolvers
from denoiselab.codecs import AutoencoderKL
from denoiselab.frozen.autoencoders import write

QUICK = [
    *("logger=none", "trainer=cpu", "data.workers=0", "batch_size=16", "max_images=32", "lr_schedule.images=16"),
    *("callbacks.held_out.num_samples=16", "evaluation.num_samples=16", "evaluation.extractor.epochs=1"),
]


def test_clothes_train_on_their_own_first_stage(tmp_path, invoke):
    write_mnist(tmp_path / "data", train=80, test=40)
    quick = [*QUICK, f"data.root={tmp_path / 'data'}", f"paths.cache_dir={tmp_path}"]
    stage, run = tmp_path / "first_stage", tmp_path / "run"
    small = ["network.channels=8", "network.groups=4"]
    result = invoke("train.py", "experiment=autoencoder_kl_fashion_mnist", *quick, *small, f"paths.run_dir={stage}")
    assert result.code == 0, result.err
    small = [
        "network.depth=1",
        "network.width=32",
        "network.heads=2",
        "evaluation.nfe=[2]",
        "evaluation.diversity=false",
    ]
    result = invoke(
        "train.py", "experiment=ldm_fashion_mnist", *quick, *small, f"codec.path={stage / 'first_stage'}",
        "callbacks.preview.num_samples=4", "callbacks.preview.every_images=32", f"paths.run_dir={run}",
    )  # fmt: skip
    assert result.code == 0, result.err
    records = json.loads((run / "frontier.json").read_text())
    cells = {(record["sampler"], record["guidance"]) for record in records}
    assert cells == {(sampler, scale) for sampler in ("ode_euler", "heun") for scale in (1, 2)}
    assert all({"codec_score", "codec_n"} <= {*record} for record in records)


def test_emoji_by_captions_fits(tmp_path, monkeypatch):
    """The scale that its own frontier finds is of captions which it has seen."""
    options = {"shape": [3, 32, 32], "channels": 8, "groups": 4, "multipliers": [1, 2, 4], "latent_channels": 8}
    network = AutoencoderKL(**options, blocks=1, middle_attention=False)
    folder = tmp_path / "first_stage"
    folder.mkdir()
    write(folder, AutoencoderKL, {**options, "blocks": 1, "middle_attention": False}, network.state_dict())
    resolvers.register()
    OmegaConf.register_new_resolver("run_id", lambda: "id", replace=True)
    given = [f"codec.path={folder}", f"conditioner.encoder.path={write_text_encoder(tmp_path)}"]
    short = ["conditioner.encoder.length=8", "data.root=none", "trainer=cpu"]
    with composing():
        config = overrides.composed("train", ["experiment=ldm_emoji_text", *given, *short])
        plain = OmegaConf.to_container(config, resolve=True)
        check_run.check_config(plain, sweeping=False)
    assert plain["conditioner"]["split"] == "train"
    assert (plain["network"]["shape"], plain["network"]["vector_features"]) == ([8, 8, 8], 6)
    assert plain["evaluation"]["num_samples"] == 202

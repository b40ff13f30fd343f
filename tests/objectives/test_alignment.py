"""Representation alignment: its value, what it trains, a run, and what is refused."""

from __future__ import annotations

import csv

import pytest
import timm
import torch
import torch.nn.functional as F
from configurations import build
from timm.models import save_for_hf

from denoiselab import parameterizations
from denoiselab.codecs import Identity
from denoiselab.conditioners import Unconditional
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.frozen import FrozenFeatures
from denoiselab.model import Model
from denoiselab.networks import DiT
from denoiselab.noise import TRAINING, Noise
from denoiselab.objectives import RepresentationAlignment
from denoiselab.schedules import Flow
from denoiselab.trained import batch_loss

SIZES = {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2, "img_size": 16}


class Means:
    """Features of blocks of 4x4 pixels: their mean, and one."""

    channels = 2

    def __call__(self, images):
        pooled = F.avg_pool2d(images, 4).mean(1, keepdim=True)
        return torch.cat((pooled, torch.ones_like(pooled)), dim=1)


def aligned(**options):
    torch.manual_seed(0)
    given = {"features": Means(), "width": 16, "layer": "blocks.0", "hidden": 8, **options}
    objective = RepresentationAlignment(build("objective", "flow_matching"), **given)
    network = DiT([3, 8, 8], patch=2, width=16, depth=2, heads=2)
    torch.nn.init.normal_(network.blocks[0].modulation.weight, std=0.1)
    denoiser = Denoiser(network, Flow(), parameterizations.velocity, ScaledTime())
    return Model(denoiser, Unconditional(), Identity([3, 8, 8])), objective


def test_the_loss_is_the_inner_one_minus_the_cosine():
    model, objective = aligned(weight=0.25)
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    position = torch.arange(4)
    batch = {"images": images, "labels": torch.zeros(4, dtype=torch.int64), "position": position}
    states = []
    hook = model.denoiser.network.blocks[0].register_forward_hook(lambda _, given, out: states.append(out))
    inner = objective.inner(model.denoiser, images, Noise(0, position, TRAINING)).mean()
    hook.remove()
    found = batch_loss(model, objective).loss(batch, Noise(0, position, TRAINING), 0)
    wanted = F.interpolate(Means()(images), (4, 4), mode="bilinear").flatten(2).transpose(1, 2)
    a = objective.head(states[0])
    cosine = ((a * wanted).sum(2) / (a.norm(dim=2) * wanted.norm(dim=2))).mean()
    assert found.total.item() == pytest.approx((inner - 0.25 * cosine).item(), abs=1e-6)
    assert found.parts["alignment"].item() == pytest.approx(cosine.item(), abs=1e-6)
    found.total.backward()
    network = model.denoiser.network
    assert network.blocks[0].modulation.weight.grad.abs().max() > 0
    trained = batch_loss(model, objective).groups()[0].parameters
    assert {id(p) for p in objective.head.parameters()} < {id(p) for p in trained}
    assert all(p.grad.abs().max() > 0 for p in objective.head.parameters())
    assert not network.blocks[0]._forward_hooks


def test_what_does_not_fit_is_refused():
    model, objective = aligned(layer="blocks.7")
    with pytest.raises(
        ValueError, match=r"objective\.layer=blocks\.7: the network has no such layer; it has .*blocks\.0"
    ):
        objective.check(model.denoiser)
    _, objective = aligned(width=8)
    with pytest.raises(ValueError, match=r"objective\.width=8: the output of layer blocks\.0 is \(1, 16, 16\)"):
        objective.cosine(torch.zeros(1, 16, 16), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="weight=-1: they must be positive"):
        aligned(weight=-1)


def test_a_run_trains_the_head_and_averages_the_denoiser_alone(tmp_path, invoke):
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", **SIZES)
    save_for_hf(vit, tmp_path / "vit", model_args=SIZES, safe_serialization=True)
    features = FrozenFeatures(str(tmp_path / "vit"))
    assert features(torch.zeros(2, 1, 8, 8)).shape == (2, 12, 4, 4)
    options = ["debug=fast_dev_run", "traceback=false", "trainer.detect_anomaly=false", "objective=repa"]
    options += [f"objective.features.path={tmp_path / 'vit'}", "objective.layer=blocks.0", "objective.hidden=8"]
    options += ["network=dit_tiny", "network.depth=1", "network.width=16", "network.heads=2", "logger=csv"]
    options += ["method=flow_matching", "evaluation.extractor.epochs=1", "evaluation.samplers=[ddim]"]
    options += ["callbacks.loss_log.every_images=1", f"paths.run_dir={tmp_path / 'run'}"]
    result = invoke("train.py", *options)
    assert result.code == 0, result.err
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    names = {name for name in checkpoint["state_dict"] if not name.startswith("denoiser.")}
    assert names == {f"objective.head.{n}.{kind}" for n in (0, 2, 4) for kind in ("weight", "bias")}
    (average,) = checkpoint["denoiselab"]["ema"].values()
    assert not any("head." in name and "network." not in name for name in average)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/alignment")]
    assert rows
    assert all(-1 <= float(row["train/alignment"]) <= 1 for row in rows)

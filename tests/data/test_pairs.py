"""Pairs in files, batches of them, and losses that take their noise."""

import pickle
from functools import partial

import pytest
import torch

from denoiselab.codecs import Identity
from denoiselab.conditioners import Unconditional
from denoiselab.data import PointSet
from denoiselab.data.array_writing import ShardWriter
from denoiselab.data.loading.batches import Batches
from denoiselab.data.pairs import PairStore
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.errors import BadInput
from denoiselab.model import Model
from denoiselab.networks import MLP
from denoiselab.noise import TRAINING, Noise
from denoiselab.objectives import DenoisingObjective
from denoiselab.objectives.level_distributions import UniformTime
from denoiselab.objectives.weights import unit
from denoiselab.parameterizations import velocity
from denoiselab.schedules import Flow
from denoiselab.trained import batch_loss

OF = {"checkpoint": "a", "checkpoint_sha256": "b", "weights": "ema", "images_seen": 9, "network_evaluations": 30}


def written(folder, variants=lambda index: [index[:, None] + 0.5, -1.0 * index[:, None]], check=lambda: None):
    plan = {"of": OF, "n": 11, "dtype": "float32", "images_per_shard": 4, "classes": [3, 1]}
    ShardWriter(PairStore, plan, variants, 3, "pairs").write(folder, check)
    return PairStore.open(folder)


def test_batches_are_pairs_with_their_classes(tmp_path):
    store = written(tmp_path / "pairs")
    data = PointSet(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))  # which are not read
    batch = next(iter(Batches(data, 0, 22, 0, latents=pickle.loads(pickle.dumps(store)))))
    index = -batch["pair"][:, 1, 0]
    assert sorted(index.tolist()) == sorted([*range(11), *range(11)])  # two epochs
    assert torch.equal(batch["pair"][:, 0, 0], index + 0.5)
    assert torch.equal(batch["labels"], torch.where(index % 2 == 0, 3, 1))
    assert batch.keys() == {"pair", "labels", "position"}
    assert store.taught["calls"] == 330
    other = written(tmp_path / "other", lambda index: [index[:, None] + 0.5, 0.0 * index[:, None]])
    assert other.fingerprint != store.fingerprint


def test_what_is_not_finite_or_damaged_is_refused(tmp_path):
    with pytest.raises(BadInput, match="pairs of images 0 to 2 are not finite as float32"):
        written(tmp_path / "nan", lambda index: [index[:, None] / 0.0] * 2)
    store = written(tmp_path / "pairs")
    shard = store.folder / "000001.npy"
    shard.write_bytes(shard.read_bytes()[:-4] + bytes(4))
    with pytest.raises(BadInput, match=r"000001\.npy has changed; make it again by the same command"):
        PairStore.open(store.folder)


def test_the_loss_is_of_the_straight_line_between_noise_and_sample():
    """A network whose output is 0, as at its start, has as velocity the loss |z - x0|^2, whatever the level."""
    denoiser = Denoiser(MLP((2,), width=8, depth=1), Flow(), velocity, ScaledTime())
    model = Model(denoiser, Unconditional(), Identity((2,)))
    objective = DenoisingObjective(partial(unit, space=velocity), UniformTime())
    pair = torch.randn(6, 2, 2, generator=torch.Generator().manual_seed(0))
    batch = {"pair": pair, "labels": torch.zeros(6).long(), "position": torch.arange(6)}
    loss = batch_loss(model, objective).loss(batch, Noise(0, batch["position"], TRAINING), 0)
    assert loss.total.item() == pytest.approx(float((pair[:, 0] - pair[:, 1]).square().mean()), rel=1e-6)

"""References: computed once from the data, read from files of four code bases, refused where they do not fit."""

import json
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from safetensors import safe_open
from safetensors.torch import save_file

from denoiselab.data import ImageSet
from denoiselab.evaluation import (
    DensityCoverage,
    FrechetDistance,
    Given,
    InceptionScore,
    KernelDistance,
    PrecisionRecall,
    Workspace,
)
from denoiselab.evaluation.features.extractors import FeatureScorer, NetworkFeatures

CPU = torch.device("cpu")
DIGEST = "ab" * 32


class Pixels(torch.nn.Module):
    def forward(self, images):
        x = images.float() / 255
        out = {"features": x[:, 0, ::3, ::3].flatten(1), "logits": x[:, 0, 0], "spatial": x[:, 0, ::4, ::4].flatten(1)}
        return {name: value for name, value in out.items() if images.shape[-1] == 8}


class Counted(torch.nn.Module):
    """Notes every image that is looked at."""

    def __init__(self, path=None):
        super().__init__()
        self.inner, self.seen, self.path = Pixels(), 0, path

    def forward(self, images):
        self.seen += len(images)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(f"{len(images)}\n")
            time.sleep(0.2)
        return self.inner(images)


METRICS = (FrechetDistance(),)
ALL = (FrechetDistance(), KernelDistance(3, 10), InceptionScore(2), PrecisionRecall(), DensityCoverage())


def scorer(metrics=METRICS, network=None, name="inception_v3", digest=DIGEST):
    extractor = NetworkFeatures(name, digest, network or Pixels(), 1, {"resize": "none"}, {"fd": "fid"}, "")
    return FeatureScorer(extractor, metrics, {})


def data(seed=0, n=70, size=8):
    g = torch.Generator().manual_seed(seed)
    return ImageSet(torch.randint(0, 256, (n, 1, size, size), generator=g, dtype=torch.uint8), torch.zeros(n).long())


def reference(mine, images, cache, given=None):
    return mine.reference(images, {"data": "noise", "split": "train"}, Workspace(cache, shown=False), CPU, given)


def collect(mine, images, batch=16, start=0):
    out = mine.statistics(start)
    for part in images.images.split(batch):
        out.update(part)
    return out


def test_every_image_is_looked_at_once_and_only_the_first_time(tmp_path):
    network = Counted()
    mine = scorer(ALL, network)
    before = network.seen
    first = reference(mine, data(), tmp_path)
    assert network.seen - before == 70
    again = reference(mine, data(), tmp_path)
    assert network.seen - before == 70
    assert first.fingerprint == again.fingerprint
    (path,) = tmp_path.glob("*.safetensors")
    assert path == first.path
    x = mine.extractor(data().images)["features"].double()
    for out in (first, again):
        assert out.n == 70
        assert torch.allclose(out.layer("features").moments.mean, x.mean(0))
        assert torch.allclose(out.layer("features").moments.covariance, torch.cov(x.T))
        assert torch.equal(out.layer("features").features.double(), x)
        assert out.layer("logits").features is None  # nobody compares logits
    # A damaged file is made anew; one that the user names is refused.
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    flips = [bytearray(whole) for _ in range(12)]
    for flipped, place in zip(flips, (*range(0, 300, 50), *rng.integers(len(whole), size=6)), strict=True):
        flipped[place] ^= 1 << int(rng.integers(8))
    for damaged in (whole[:100], *flips):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"damaged|not a file of reference statistics|here it is|it is of"):
            reference(mine, data(), tmp_path, Given(path, None))
        assert reference(mine, data(), tmp_path).fingerprint == first.fingerprint
        assert path.read_bytes() == whole
    path.with_name(f"{path.name}.sha256").unlink()  # of an earlier version
    seen = network.seen
    assert reference(mine, data(), tmp_path).fingerprint == first.fingerprint
    assert network.seen == seen


def test_other_images_extractors_weights_and_metrics_have_other_files(tmp_path):
    for mine, images in (
        (scorer(), data()),
        (scorer(), data(1)),
        (scorer(), data(n=69)),
        (scorer(digest="cd" * 32), data()),
        (scorer(name="other"), data()),
        (scorer((KernelDistance(3, 10),)), data()),
    ):
        reference(mine, images, tmp_path)
    assert len([*tmp_path.glob("*.safetensors")]) == 6


def test_all_scores_come_from_one_pass_whatever_the_batch_size(tmp_path):
    mine = scorer(ALL)
    truth = reference(mine, data(), tmp_path)
    scores = [mine.scores(collect(mine, data(1), batch), truth) for batch in (7, 16, 64)]
    assert list(scores[0]) == [*mine.lower_is_better]
    assert list(scores[0])[:2] == ["fid", "fid_infinity"]
    assert mine.metric == "fid"
    for name, score in scores[0].items():
        for other in scores[1:]:
            assert other[name].value == pytest.approx(score.value, rel=1e-9), name
    assert mine.lower_is_better["fid"]
    assert not mine.lower_is_better["precision_inception_v3"]


def score_on_ranks(rank, path, out, cache, world):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world)
    mine = scorer(ALL)
    start = rank * 70 // world
    share = data(1).images[start : (rank + 1) * 70 // world]
    statistics = collect(mine, ImageSet(share, torch.zeros(len(share)).long()), 7, start)
    statistics.reduce(CPU)
    scores = mine.scores(statistics, reference(mine, data(), cache))
    plain = {
        name: (score.value, score.standard_error, None if score.influences is None else score.influences.first)
        for name, score in scores.items()
    }
    torch.save((statistics.n, plain), f"{out}{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_every_score_is_that_of_one_process_on_every_rank(world, tmp_path):
    mine = scorer(ALL)
    expected = mine.scores(collect(mine, data(1)), reference(mine, data(), tmp_path / "cache"))
    arguments = (tmp_path / "store", tmp_path / "out", tmp_path / "cache", world)
    on_ranks(score_on_ranks, arguments, world)
    for rank in range(world):
        n, scores = torch.load(f"{tmp_path / 'out'}{rank}")
        assert n == 70
        for name, score in expected.items():
            value, error, first = scores[name]
            assert value == pytest.approx(score.value, rel=1e-9), name
            assert error == (score.standard_error and pytest.approx(score.standard_error, rel=1e-9)), name
            assert (first is None) == (score.influences is None), name
            if first is not None:
                torch.testing.assert_close(first, score.influences.first, rtol=1e-6, atol=1e-6)


def make(rank, cache, log):
    reference(scorer(METRICS, Counted(log)), data(), cache)


@pytest.mark.slow
def test_processes_that_want_one_file_compute_it_once(tmp_path):
    on_ranks(make, (tmp_path, tmp_path / "log"), 3)
    seen = [int(line) for line in (tmp_path / "log").read_text().split()]
    assert sum(seen) == 70 + 3  # and a blank image by which each process learns the dimensions


def test_a_file_that_fits_is_read(tmp_path):
    mine = scorer(ALL)
    made = reference(mine, data(), tmp_path)
    for given in (Given(made.path, None), Given(made.path, 70)):
        found = reference(mine, data(), tmp_path, given)
        assert (found.fingerprint, found.n, found.of) == (made.fingerprint, 70, made.of)


def test_a_file_of_other_data_is_refused_unless_that_is_allowed(tmp_path):
    mine = scorer()
    made = reference(mine, data(), tmp_path)
    assert made.of == {"data": "noise", "split": "train", "data_sha256": data().fingerprint}
    says = f"it is of noise .train., with data_sha256 {data().fingerprint[:16]}; the .*evaluation.reference_data=any"
    with pytest.raises(ValueError, match=says):
        reference(mine, data(5), tmp_path, Given(made.path, None))
    assert reference(mine, data(5), tmp_path, Given(made.path, None, any_data=True)).of == made.of


@pytest.mark.parametrize(
    ("other", "size", "n", "says"),
    [
        ({}, 9, None, r"its shape is \[1, 8, 8\], here it is \[1, 9, 9\]"),
        ({}, 8, 71, "its n is 70, here it is 71"),
        ({"name": "vgg16"}, 8, None, "its extractor is inception_v3, here it is vgg16"),
        ({"digest": "cd" * 32}, 8, None, "its extractor_sha256 is abab.*here it is cdcd"),
        ({"metrics": (KernelDistance(3, 10),)}, 8, None, "no whole features of features, which KernelDistance reads"),
        ({"metrics": (FrechetDistance("spatial"),)}, 8, None, "no moments of spatial, which FrechetDistance reads"),
    ],
)
def test_a_file_of_another_protocol_is_refused(other, size, n, says, tmp_path):
    made = reference(scorer(), data(), tmp_path)
    with pytest.raises(ValueError, match=f"evaluation.reference=.*{says}"):
        reference(scorer(**other), data(size=size), tmp_path, Given(made.path, n))


def test_a_file_of_other_facts_is_refused(tmp_path):
    made = reference(scorer(), data(), tmp_path)
    mine = scorer()
    mine.extractor.facts = {"resize": "another"}
    with pytest.raises(ValueError, match="its extractor_facts"):
        reference(mine, data(), tmp_path, Given(made.path, None))


def moments(images, layer="features"):
    x = Pixels()(images.images)[layer].double()
    return x.mean(0).numpy(), torch.cov(x.T).numpy()


def test_the_files_of_adm_edm_pytorch_fid_and_clean_fid_are_read(tmp_path):
    (mu, sigma), (mu_s, sigma_s) = moments(data()), moments(data(), "spatial")
    pixels = data(n=20).images.permute(0, 2, 3, 1).numpy()
    # EDM's, pytorch-fid's and clean-fid's have mu and sigma alone.
    np.savez(tmp_path / "edm.npz", mu=mu, sigma=sigma)
    np.savez(tmp_path / "adm.npz", mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s, arr_0=pixels)
    spatial = FrechetDistance("spatial")
    mine = scorer((FrechetDistance(), spatial, KernelDistance(3, 10), PrecisionRecall()))
    expected = mine.scores(collect(mine, data(1)), reference(mine, data(), tmp_path))
    adm = reference(mine, data(), tmp_path, Given(tmp_path / "adm.npz", 70))
    assert adm.of == {}
    assert torch.equal(adm.layer("features").features, mine.extractor(data(n=20).images)["features"])
    scores = mine.scores(collect(mine, data(1)), adm)
    for name in ("fid", "sfd_inception_v3"):
        assert scores[name].value == pytest.approx(expected[name].value, rel=1e-9)
    mine = scorer()
    edm = reference(mine, data(), tmp_path, Given(tmp_path / "edm.npz", 70))
    assert mine.scores(collect(mine, data(1)), edm)["fid"].value == pytest.approx(expected["fid"].value, rel=1e-9)
    with pytest.raises(ValueError, match="no whole features of features"):
        reference(scorer((KernelDistance(3, 10),)), data(), tmp_path, Given(tmp_path / "edm.npz", 70))
    with pytest.raises(ValueError, match="no moments of spatial"):
        reference(scorer((spatial,)), data(), tmp_path, Given(tmp_path / "edm.npz", 70))
    with pytest.raises(ValueError, match="does not say of how many images"):
        reference(mine, data(), tmp_path, Given(tmp_path / "edm.npz", None))
    with pytest.raises(ValueError, match=r"an \.npz holds statistics of inception_v3"):
        reference(scorer(name="vgg16"), data(), tmp_path, Given(tmp_path / "edm.npz", 70))


def test_files_that_are_no_references_are_refused(tmp_path):
    np.savez(tmp_path / "images.npz", images=np.zeros(3))
    np.savez(tmp_path / "small.npz", mu=np.zeros(4), sigma=np.eye(4))
    np.savez(tmp_path / "pickle.npz", mu=np.array([{}]), sigma=np.eye(4))
    eye, nan = np.eye(9), np.full((9, 9), np.nan)
    for name, mu, sigma in (
        ("nan.npz", np.zeros(9), nan), ("mean.npz", nan[0], eye), ("wide.npz", np.zeros(9), np.zeros((9, 8))),
        ("matrix.npz", np.zeros((1, 9)), eye), ("negative.npz", np.zeros(9), eye - 1.5 * np.diag(eye[0])),
        ("skewed.npz", np.zeros(9), eye + np.triu(np.ones((9, 9)), 1)),
    ):  # fmt: skip
        np.savez(tmp_path / name, mu=mu, sigma=sigma)
    for name in ("bad.npz", "bad.safetensors", "bad.txt"):
        (tmp_path / name).write_bytes(b"nothing")
    for name, says in (
        ("absent.npz", "there is no such file"),
        ("images.npz", "no arrays mu and sigma"),
        ("small.npz", "features has 4 dimensions there, and 9 here"),
        ("pickle.npz", "cannot be read as an .npz"),
        ("bad.npz", "cannot be read as an .npz"),
        ("bad.safetensors", "not a file of reference statistics"),
        ("bad.txt", "it must be an .npz or a .safetensors file"),
        ("nan.npz", "sigma holds NaN"),
        ("mean.npz", "mu holds NaN"),
        ("wide.npz", r"sigma has shape \[9, 8\]; with mu it must be \[9, 9\]"),
        ("matrix.npz", r"mu has shape \[1, 9\]"),
        ("negative.npz", "sigma has negative eigenvalues"),
        ("skewed.npz", "sigma is not symmetric"),
    ):
        with pytest.raises(ValueError, match=f"evaluation.reference=.*{name}: .*{says}"):
            reference(scorer(), data(), tmp_path, Given(tmp_path / name, 70))


def test_too_few_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the number of reference images=3: it must be at least 4"):
        reference(scorer(), data(n=3), tmp_path)
    mine = scorer()
    with pytest.raises(ValueError, match="n=2: it must be at least 4"):
        mine.scores(collect(mine, data(n=2)), reference(mine, data(), tmp_path))
    made = reference(scorer((KernelDistance(3, 10),)), data(n=12), tmp_path)
    with pytest.raises(ValueError, match="its n=12: it must be at least block_size=13"):
        reference(scorer((KernelDistance(3, 13),)), data(n=12), tmp_path, Given(made.path, None))


def test_the_protocol_is_inside(tmp_path):
    made = reference(scorer(), data(), tmp_path)
    with safe_open(made.path, framework="pt") as file:
        protocol = json.loads(file.metadata()["protocol"])
    assert protocol == {
        "format": 1,
        "data": "noise",
        "split": "train",
        "data_sha256": data().fingerprint,
        "n": 70,
        "shape": [1, 8, 8],
        "extractor": "inception_v3",
        "extractor_sha256": DIGEST,
        "extractor_facts": {"resize": "none"},
        "moments": ["features"],
        "features": [],
    }


def test_a_covariance_of_more_images_than_are_told_is_refused(tmp_path):
    """The distance takes its rank from n: it would change without a word."""
    for n, file in ((70, "many.npz"), (5, "few.npz")):
        mu, sigma = moments(data(n=n))
        np.savez(tmp_path / file, mu=mu, sigma=sigma)
        assert reference(scorer(), data(), tmp_path, Given(tmp_path / file, n)).n == n
    with pytest.raises(ValueError, match=r"many.npz: the rank of sigma is above 4: .*evaluation.reference_n=5"):
        reference(scorer(), data(), tmp_path, Given(tmp_path / "many.npz", 5))


def test_images_and_features_that_do_not_fit_are_refused(tmp_path):
    mu, sigma = moments(data())
    mine = scorer((KernelDistance(3, 10),))
    for images in (np.zeros((20, 9, 9, 1), np.uint8), np.zeros((20, 8, 8, 3), np.uint8), np.zeros((20, 8, 8, 1))):
        np.savez(tmp_path / "adm.npz", mu=mu, sigma=sigma, arr_0=images)
        with pytest.raises(ValueError, match=r"evaluation.reference=.*adm.npz: arr_0 has shape \[20, .*\[8, 8, 1\] of"):
            reference(mine, data(), tmp_path, Given(tmp_path / "adm.npz", 70))
    made = reference(mine, data(), tmp_path)
    with safe_open(made.path, framework="pt") as file:
        metadata, features = file.metadata(), file.get_tensor("features.features")
    features[3, 2] = torch.nan
    for tensors, says in (
        ({"features.features": features}, "features.features holds NaN"),
        ({}, "its metadata is missing"),
    ):
        save_file(tensors, tmp_path / "bad.safetensors", metadata)
        with pytest.raises(ValueError, match=f"evaluation.reference=.*bad.safetensors: .*{says}"):
            reference(mine, data(), tmp_path, Given(tmp_path / "bad.safetensors", None))

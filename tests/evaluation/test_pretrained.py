"""Inception's scores against torch-fidelity's and torchmetrics' on the same files; the other extractors."""

import importlib.util

import numpy as np
import pytest
import torch
import torch_fidelity
from inception import write_random_inception
from PIL import Image
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torchmetrics.image.fid import FrechetInceptionDistance

from denoiselab.data import ImageSet
from denoiselab.evaluation import (
    CLIP,
    VGG16,
    DINOv2,
    EfficientNetLite0,
    FrechetDistance,
    Given,
    InceptionScore,
    InceptionV3,
    KernelDistance,
    PrecisionRecall,
    Workspace,
)
from denoiselab.evaluation.features.dinov2 import _positions
from denoiselab.evaluation.features.extractors import _exact_float32

N = 11
EQUAL = 1e-6
METRICS = {
    "frechet": FrechetDistance(),
    "kernel": KernelDistance(blocks=5, block_size=10),
    "is": InceptionScore(splits=3),
    "precision_recall": PrecisionRecall(3),
}
PEER = {
    "fid": "frechet_inception_distance",
    "kid": "kernel_inception_distance_mean",
    "is": "inception_score_mean",
    "precision": "precision",
    "recall": "recall",
}

needs = {
    name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")
    for name in ("timm", "efficientnet_lite_pytorch")
}


def images(seed, n=N, size=16):
    """Smooth random images; of seed 1 some are brighter, which makes the kernel distance large.

    torch-fidelity's kernel distance is in single precision: of near sets it has five digits right. Its Frechet
    distance, of fewer images than dimensions, is 1e-3 off, by the threads: low contrast makes it large beside that.
    """
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 3, 4, 4, generator=g)
    x = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    x = 30 * x + 128
    x[1::3] += 110 * seed
    return x.round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(write_random_inception(tmp_path_factory.mktemp("weights") / "inception.pth"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for seed in range(2):
        (root / str(seed)).mkdir()
        for i, image in enumerate(images(seed)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / str(seed) / f"{i:03d}.png")
    return [str(root / str(seed)) for seed in range(2)]


def data(x):
    return ImageSet(x, torch.zeros(len(x), dtype=torch.int64))


def scorer(extractor, metrics, cache):
    blank = data(images(0, 2))
    return extractor.fit(blank, blank, metrics, {}, Workspace(cache, shown=False))


def scores(extractor, metrics, cache, batch=N):
    mine = scorer(extractor, metrics, cache)
    statistics = mine.statistics()
    for part in images(0).split(batch):
        statistics.update(part)
    reference = mine.reference(data(images(1)), {"data": "smooth"}, Workspace(cache, shown=False), torch.device("cpu"))
    return {name: score.value for name, score in mine.scores(statistics, reference).items()}


def theirs(folders, weights, **options):
    common = {
        "feature_extractor": "inception-v3-compat",
        "cuda": False,
        "cache": False,
        "verbose": False,
        "save_cpu_ram": True,
        "batch_size": N,
    }
    sizes = {"kid_subsets": 5, "kid_subset_size": 10, "isc_splits": 3, "prc_neighborhood": 3, "prc_batch_size": 2000}
    return torch_fidelity.calculate_metrics(
        input1=folders[0], input2=folders[1], feature_extractor_weights_path=weights, **common, **sizes, **options
    )


@pytest.mark.slow
def test_every_score_of_inception_equals_torch_fidelitys(weights, folders, tmp_path):
    out = scores(InceptionV3(weights, sha256=None), METRICS, tmp_path)
    peer = theirs(folders, weights, fid=True, kid=True, isc=True, prc=True)
    assert set(out) == {*PEER, "fid_infinity"}
    for name, key in PEER.items():
        assert out[name] == pytest.approx(peer[key], rel=EQUAL), name
    assert 0 < out["recall"] < 1 or 0 < out["precision"] < 1


@pytest.mark.slow
def test_every_score_of_an_early_layer_equals_torch_fidelitys(weights, folders, tmp_path):
    metrics = {name: METRICS[name] for name in ("frechet", "kernel", "precision_recall")}
    out = scores(InceptionV3(weights, sha256=None, layer=64), metrics, tmp_path)
    layers = {f"feature_layer_{metric}": "64" for metric in ("fid", "kid", "prc")}
    peer = theirs(folders, weights, fid=True, kid=True, prc=True, **layers)
    for name in ("fid", "kid", "precision", "recall"):
        assert out[f"{name}_64"] == pytest.approx(peer[PEER[name]], rel=EQUAL), name


@pytest.mark.slow
def test_fid_equals_torchmetrics_without_antialiasing(weights, tmp_path):
    peer = FrechetInceptionDistance(64, feature_extractor_weights_path=weights, antialias=False)
    for seed in range(2):
        peer.update(images(seed), real=seed == 1)
    out = scores(InceptionV3(weights, sha256=None, layer=64), {"frechet": FrechetDistance()}, tmp_path)
    assert out["fid_64"] == pytest.approx(float(peer.compute()), rel=EQUAL)


def test_the_last_layer_is_torchmetrics_without_antialiasing(weights, tmp_path):
    """Its distance is not, of fewer images than dimensions: eigenvalues that should be zero add up to 1e-6 of it."""
    peer = FrechetInceptionDistance(2048, feature_extractor_weights_path=weights, antialias=False)
    mine = scorer(InceptionV3(weights, sha256=None), {"frechet": FrechetDistance()}, tmp_path)
    assert torch.equal(mine.extractor(images(1, 3))["features"], peer.inception(images(1, 3)))


@pytest.mark.slow
def test_fid_does_not_depend_on_the_batch_size(weights, tmp_path):
    extractor = InceptionV3(weights, sha256=None, layer=64)
    fids = [scores(extractor, {"frechet": FrechetDistance()}, tmp_path, batch)["fid_64"] for batch in (7, 16, 64)]
    assert fids[1:] == pytest.approx(fids[:1] * 2, rel=EQUAL)


def test_grey_images_are_their_rgb_and_spatial_features_are_seven_channels_of_mixed_6(weights, tmp_path):
    mine = scorer(InceptionV3(weights, sha256=None), {"s": FrechetDistance("spatial")}, tmp_path)
    assert mine.metric == "sfid"
    grey = images(0, 5)[:, :1]
    out = mine.extractor(grey)["spatial"]
    assert torch.equal(out, mine.extractor(grey.expand(-1, 3, -1, -1))["spatial"])
    # TensorFlow's mixed, mixed_1, ..., mixed_6 are 5b, 5c, 5d, 6a, 6b, 6c, 6d here.
    inner = mine.extractor._network.inner
    names = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
    x = interpolate_bilinear_2d_like_tensorflow1x(
        grey.expand(-1, 3, -1, -1).float(), size=(299, 299), align_corners=False
    )
    x = (x - 128) / 128
    for name in (*names, "MaxPool_2", *(f"Mixed_{place}" for place in ("5b", "5c", "5d", "6a", "6b", "6c"))):
        x = getattr(inner, name)(x)
    theirs = inner.Mixed_6d.branch1x1(x).permute(0, 2, 3, 1)[..., :7].flatten(1)  # ADM's order, evaluator.py
    assert torch.allclose(out, theirs, rtol=1e-5, atol=1e-6)
    assert out.shape == (5, 7 * 17 * 17)
    moments = theirs.double().mean(0).numpy(), torch.cov(theirs.double().T).numpy()
    np.savez(tmp_path / "adm.npz", **dict(zip(("mu", "sigma", "mu_s", "sigma_s"), moments * 2, strict=True)))
    statistics, given = mine.statistics(), Given(tmp_path / "adm.npz", 5)
    statistics.update(grey)
    reference = mine.reference(data(grey), {}, Workspace(tmp_path, shown=False), torch.device("cpu"), given)
    distance = mine.scores(statistics, reference)["sfid"].value
    assert abs(distance) < 1e-6 * float(theirs.double().var(0).sum())
    assert mine.facts["spatial"] == "H, W, C"  # files of another order, or of none, have another protocol


def test_features_are_computed_in_float32_under_autocast(weights, tmp_path):
    mine = scorer(InceptionV3(weights, sha256=None, layer=64), {"f": FrechetDistance()}, tmp_path).extractor
    outside = mine(images(0, 2))["features"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mine(images(0, 2))["features"], outside)


def test_tf32_is_off_within_and_as_it_was_after():
    backend = torch.backends.cuda.matmul
    name = "fp32_precision" if hasattr(backend, "fp32_precision") else "allow_tf32"
    before = getattr(backend, name)
    setattr(backend, name, "tf32" if name == "fp32_precision" else True)
    try:
        with _exact_float32(torch.device("cpu")):
            assert getattr(backend, name) in ("ieee", False)
        assert getattr(backend, name) in ("tf32", True)
    finally:
        setattr(backend, name, before)


def test_absent_weights_are_named_with_hash_and_place(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for make, file in (
        (InceptionV3, "weights-inception-2015-12-05-6726825d.pth"),
        (VGG16, "vgg16-397923af.pth"),
        (CLIP, "clip-vit-b-32-40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af.pt"),
    ):
        with pytest.raises(ValueError, match=r"^evaluation\.extractor: the weights of") as refusal:
            make().check((3, 8, 8), {"frechet": FrechetDistance()}, 10)
        for text in (str(tmp_path / "hub" / "checkpoints" / file), "sha256", "download=true"):
            assert text in str(refusal.value)


def test_other_weights_are_refused(weights, tmp_path):
    metrics = {"frechet": FrechetDistance()}
    with pytest.raises(ValueError, match="has sha256"):
        InceptionV3(weights).check((3, 8, 8), metrics, 10)
    other = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(3)}, other)
    with pytest.raises(ValueError, match="does not hold the weights of InceptionV3"):
        scorer(InceptionV3(str(other), sha256=None), metrics, tmp_path)
    other.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="does not hold the weights of VGG16"):
        scorer(VGG16(str(other), sha256=None), metrics, tmp_path)


@needs["timm"]
def test_dinov2_without_a_hash_says_so_and_refuses_junk_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    metrics = {"frechet": FrechetDistance()}
    with pytest.raises(ValueError, match=r"no sha256 is required.*evaluation\.extractor\.sha256=.*dinov2_vits14_pre"):
        DINOv2("vit-s-14").check((3, 8, 8), metrics, 10)
    junk = tmp_path / "junk.pth"
    for state in ({"a": torch.zeros(3)}, [torch.zeros(3)], torch.zeros(3)):
        torch.save(state, junk)
        with pytest.raises(ValueError, match=r"junk.pth does not hold the weights of DINOv2 vit-s-14"):
            DINOv2("vit-s-14", str(junk)).check((3, 8, 8), metrics, 10)


def test_weights_that_run_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"fc.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="does not hold the weights"):
        scorer(InceptionV3(str(tmp_path / "evil.pth"), sha256=None), {"f": FrechetDistance()}, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_one_process_of_many_never_downloads(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="run it in one process"):
        InceptionV3(str(tmp_path / "absent.pth")).weights.download()


@pytest.mark.parametrize(
    ("extractor", "shape", "metrics", "says"),
    [
        (InceptionV3, (2,), {"f": FrechetDistance()}, "evaluation=points"),
        (InceptionV3, (4, 8, 8), {"f": FrechetDistance()}, "have 4 channels"),
        (InceptionV3, (3, 8, 8), {}, r"evaluation\.metrics=\[\]"),
        (VGG16, (3, 8, 8), {"is": InceptionScore()}, "is reads logits, which VGG16 does not have"),
        (InceptionV3, (3, 8, 8), {"k": KernelDistance()}, "k: num_samples=10: it must be at least block_size=1000"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_read(extractor, shape, metrics, says):
    with pytest.raises(ValueError, match=says):
        extractor().check(shape, metrics, 10)


def test_options_out_of_range_are_refused():
    for make, says in (
        (lambda: InceptionV3(layer=65), "layer=65"),
        (lambda: CLIP("vit-b-33"), "vit-b-32"),
        (lambda: DINOv2("vit-l-15"), "vit-l-14"),
        (lambda: EfficientNetLite0(100), "size=100"),
    ):
        with pytest.raises(ValueError, match=says):
            make()


@needs["efficientnet_lite_pytorch"]
def test_efficientnet_gives_features_and_classes_offline(tmp_path):
    metrics = {"frechet": FrechetDistance(), "is": InceptionScore(2)}
    mine = scorer(EfficientNetLite0(64), metrics, tmp_path)
    assert mine.extractor.dimensions == {"features": 1280, "logits": 1000}
    assert list(mine.lower_is_better) == [
        "fd_efficientnet_lite0",
        "fd_efficientnet_lite0_infinity",
        "is_efficientnet_lite0",
    ]
    x = images(0, 4, size=64)
    features = mine.extractor(x)["features"]
    # The package's own forward, on the same picture.
    inner = mine.extractor._network.inner
    assert torch.allclose(inner((x.float() - 127) / 128), mine.extractor(x)["logits"], atol=1e-4)
    assert features.std() > 0.01


@pytest.mark.slow
@needs["timm"]
def test_dinov2_reads_the_authors_layout(tmp_path):
    import timm

    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0).eval()
    state = network.state_dict()
    torch.save({**state, "mask_token": torch.zeros(1, 384)}, tmp_path / "dinov2.pth")
    mine = scorer(DINOv2("vit-s-14", str(tmp_path / "dinov2.pth")), {"f": FrechetDistance()}, tmp_path)
    assert mine.metric == "fd_dinov2_vit_s_14"
    assert mine.extractor.dimensions == {"features": 384}
    # The same network built for 518 pixels sees the same at 518; here it sees 224, with fewer positions.
    ours = mine.extractor._network.inner
    for name, value in ours.state_dict().items():
        if name != "pos_embed":
            assert torch.equal(value, state[name])


def test_positions_keep_the_class_and_nearly_a_linear_ramp():
    m, side = 37, 16
    ramp = torch.arange(m).float().repeat_interleave(m)
    embedding = torch.cat((torch.full((1, 1, 1), 7.0), ramp[None, :, None]), dim=1)
    out = _positions(embedding, side)
    assert out.shape == (1, 1 + side**2, 1)
    assert out[0, 0, 0] == 7
    rows = out[0, 1:, 0].reshape(side, side)
    assert torch.allclose(rows, rows[:, :1].expand(-1, side), atol=1e-4)
    # Row i is read at (i + 1/2) M / (side + 0.1) - 1/2.
    wanted = (torch.arange(side) + 0.5) * m / (side + 0.1) - 0.5
    assert torch.allclose(rows[2:-2, 0], wanted[2:-2], atol=0.08)

"""`sample.py task=inverse`: images restored from measurements, and how near they are to the true ones."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from frozen_models import autoencoder
from PIL import Image

from denoiselab.app.tasks.inverse import Inverse
from denoiselab.codecs import Logit
from denoiselab.errors import BadInput
from denoiselab.evaluation.restoration import LPIPS_SIDE, fidelity, read_lpips
from denoiselab.inverse import MMPS, AveragePool


def pictures(folder):
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("0*.png"))]).astype(float)


@pytest.fixture
def restore(finished, tmp_path, invoke):
    """Restorations of the run's held-out digits, their record and what was printed."""

    def call(*arguments, name="out"):
        out = tmp_path / name
        result = invoke("sample.py", f"ckpt={finished}", "task=inverse", "sampler.steps=4", f"out={out}", *arguments)
        assert result.code == 0, result.err
        return out, json.loads((out / "samples.json").read_text()), result.out

    return call


@pytest.fixture
def left(tmp_path):
    """A mask whose left half is white."""
    half = np.zeros((8, 8), np.uint8)
    half[:, :4] = 255
    Image.fromarray(half).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_images_are_restored_and_scored(restore):
    out, record, said = restore("num_samples=3", "operator.factor=2", "task.method.iterations=2", "noise=0.1")
    result, reference, given = (pictures(folder) for folder in (out, out / "reference", out / "given"))
    psnr = (10 * np.log10(255**2 / ((result - reference) ** 2).mean((1, 2)))).mean()
    assert record["psnr"] == pytest.approx(psnr)
    assert f"psnr {psnr:.4g}" in said
    assert record["ssim"] is None  # no window of 11 pixels fits
    assert record["lpips"] is None
    assert (record["nfe"], record["network_evaluations"], record["gradient_evaluations"]) == (4, 4, 12)
    assert record["operator"] == {"_target_": "denoiselab.inverse.AveragePool", "factor": 2}
    assert record["start"]["rho"] > 50

    def pooled(x):
        return x.reshape(3, 4, 2, 4, 2).mean((2, 4))

    # What is given is the measurements as bytes; the noise is 0.1 of a range of 2, clipped at black and white.
    off = (pooled(given) - pooled(reference)) / 127.5
    assert 0.05 < off.std() < 0.15
    residual = np.sqrt(((pooled(result) - pooled(given)) ** 2).mean()) / 127.5
    assert record["residual_rms"] == pytest.approx(residual, rel=0.1)
    assert record["residual"] == pytest.approx(record["residual_rms"] / 0.1)
    assert record["grid"] == ["given", "result", "reference"]


def test_draws_of_an_image_share_its_measurements_and_depend_on_no_batch(restore):
    ours = ["num_samples=2", "operator.factor=2", "sampler=ancestral", "task/method=ddnm"]
    out, record, said = restore(*ours, "draws=3", "batch_size=4")
    again, _, _ = restore(*ours, "draws=2", "batch_size=1", name="again")
    drawn, fewer = pictures(out).reshape(2, 3, 8, 8), pictures(again).reshape(2, 2, 8, 8)
    assert np.abs(drawn[:, :2] - fewer).max() <= 1
    assert np.abs(drawn[:, 0] - drawn[:, 1]).max() > 10
    assert np.abs(pictures(out / "mean") - drawn.mean(1)).max() <= 0.5
    spread = drawn.std(1, ddof=1)
    assert record["std_of_white"] == pytest.approx(spread.max() / 127.5)
    assert np.abs(pictures(out / "std") - spread * 255 / spread.max()).max() <= 0.5
    assert record["psnr_of_mean"] > record["psnr"]
    assert "gradient_evaluations" not in record
    assert said.startswith("6 samples, 4 network calls each")


def test_known_pixels_of_a_mask_are_kept_and_returns_are_counted(restore, left):
    ours = ["num_samples=2", "noise=0", "task/operator=mask", f"operator.mask={left}", "sampler=ancestral"]
    out, record, said = restore(*ours, "task/method=replacement")
    known = np.asarray(Image.open(left)) > 0
    result, reference, given = (pictures(folder) for folder in (out, out / "reference", out / "given"))
    assert np.array_equal(result[:, known], reference[:, known])
    assert np.array_equal(given[:, known], reference[:, known])
    assert (result[:, ~known] != reference[:, ~known]).any()
    assert len(record["mask_sha256"]) == 64
    assert (record["residual"], record["nfe"]) == (None, 4)
    assert f"residual_rms {record['residual_rms']:.4g}," in said
    ours += ["task/method=repaint", "method.jump_length=2", "method.resample=3", "operator.known=black"]
    again, record, _ = restore(*ours, name="again")
    assert record["nfe"] == 4 + 2 * 2
    assert np.array_equal(pictures(again / "given")[:, ~known], reference[:, ~known])


def test_measurements_in_a_folder_have_no_reference(restore, tmp_path):
    (tmp_path / "small").mkdir()
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "small" / "a.png")
    folder = f"measurements={tmp_path / 'small'}"
    out, record, _ = restore("operator.factor=2", folder, "task/method=dps_published", "method.zeta=0.1")
    assert (record["given"], record["grid"]) == (["a.png"], ["given", "result"])
    assert "psnr" not in record
    assert record["gradient_evaluations"] == 4
    assert (pictures(out / "given") == 255).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["operator.factor=3"], "task.operator.factor=3: samples have the shape [1, 8, 8]"),
        (["task/operator=grey"], "task.operator=Grey: samples of shape [1, 8, 8] have no colours"),
        (["task/operator=mask", "operator.mask=none.png"], "task.operator.mask=none.png: there is no such file"),
        (
            ["task/method=repaint", "sampler=dpmpp_2m"],
            "task/method=repaint: sampler=dpmpp_2m: it must be a single-",
        ),
        (["task/method=repaint"], "task.method.jump_length=10: the grid has 4 noisy levels"),
        (["task/method=repaint", "method.resample=1"], "resample=1: there are no returns"),
        (
            ["task/method=pigdm_published", "sampler=dpmpp_2m"],
            "task/method=pigdm_published: it keeps eps while x0 changes, and sampler=dpmpp_2m adds",
        ),
        (["task/method=tmpd", "noise=0"], "noise=0: TMPD divides"),
        (["noise=-1"], "task.noise=-1: the standard deviation"),
        (["draws=0"], "draws=0: it must be at least 1"),
        (["lpips=none.pth"], "task.lpips=none.pth: LPIPS takes sides of at least 31 pixels, and samples have 8 x 8"),
        (["images=train", "measurements=."], "task.images=train: it has no effect with measurements; leave it out."),
        (["task/operator=compressed_sensing", "measurements=."], "measurements by CompressedSensing are no images"),
    ],
)
def test_bad_input_is_refused(finished, invoke, tmp_path, arguments, sentence):
    out = tmp_path / "out"
    result = invoke("sample.py", f"ckpt={finished}", "task=inverse", "sampler.steps=4", f"out={out}", *arguments)
    assert result.code == 2
    assert sentence in result.err
    assert not out.exists()


def test_an_operator_with_a_wrong_adjoint_is_refused(finished, invoke, tmp_path, monkeypatch):
    monkeypatch.setattr("denoiselab.inverse.AveragePool.adjoint", lambda self, y: self.pinv(y))
    result = invoke("sample.py", f"ckpt={finished}", "task=inverse", "operator.factor=2", f"out={tmp_path / 'out'}")
    assert result.code == 2
    assert "task.operator=AveragePool: its adjoint is not that of its call" in result.err


def test_samples_that_equal_their_reference_are_left_out_of_the_mean_psnr():
    reference = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    images = reference + torch.tensor([0, 1, 1], dtype=torch.uint8).reshape(3, 1, 1, 1)
    scores = Inverse(method=MMPS(), operator=AveragePool(2))._scored({"reference": reference}, images)
    assert scores["psnr"] == pytest.approx(20 * np.log10(255))
    assert scores["equal"] == 1


def test_models_of_latents_are_refused():
    asked = Inverse(method=MMPS(), operator=AveragePool(2))
    opened = SimpleNamespace(model=SimpleNamespace(codec=Logit((1, 8, 8)), shape=(1, 8, 8)))
    with pytest.raises(BadInput, match="operators act on pixels, and the model's samples are latents of Logit"):
        asked.prepare(None, opened, None)


def test_latents_are_followed_through_the_decoder(tmp_path, invoke):
    autoencoder("AutoencoderKL").save_pretrained(tmp_path / "vae")
    options = ["debug=fast_dev_run", "traceback=false", "trainer.detect_anomaly=false", "logger=none"]
    options += ["codec=autoencoder_kl", f"codec.path={tmp_path / 'vae'}", "network.channels=8", "network.groups=4"]
    options += ["evaluation.samplers=[ddim]", "evaluation.extractor.epochs=1", "evaluation.nfe=[2]"]
    result = invoke("train.py", *options, "decode_memory=0.01", f"paths.run_dir={tmp_path / 'run'}")
    assert "decode_memory=0.01: a tile of 8x8 latents needs" in result.last
    assert invoke("train.py", *options, "decode_memory=1", f"paths.run_dir={tmp_path / 'run'}").code == 0
    asked = [f"ckpt={tmp_path / 'run'}", "task=inverse", "operator.factor=2", "num_samples=4", "sampler=ddim"]
    result = invoke("sample.py", *asked, f"out={tmp_path / 'none'}")
    assert "latents of KLCodec; task/method=dps_published takes gradients through the decoder" in result.last
    residual = {}
    for zeta in (0, 1):
        out = tmp_path / str(zeta)
        steps = ["task/method=dps_published", f"task.method.zeta={zeta}", "sampler.steps=20", f"out={out}"]
        result = invoke("sample.py", *asked, *steps)
        assert result.code == 0, result.err
        record = json.loads((out / "samples.json").read_text())
        residual[zeta] = record["residual_rms"]
        assert record["gradient_evaluations"] == 20
    assert residual[1] < 0.99 * residual[0]


def test_ssim_of_flat_images_is_the_closed_form_and_that_of_equal_images_1():
    flat = torch.tensor([100, 100]).reshape(2, 1, 1, 1).expand(-1, 3, 24, 16).to(torch.uint8)
    other = torch.tensor([100, 180]).reshape(2, 1, 1, 1).expand(-1, 3, 24, 16).to(torch.uint8)
    c1 = (0.01 * 255) ** 2
    wanted = torch.tensor([1.0, (2 * 100 * 180 + c1) / (100**2 + 180**2 + c1)], dtype=torch.float64)
    assert torch.allclose(fidelity(flat, other)["ssim"], wanted, rtol=1e-9)


def test_lpips_reads_its_network_from_a_file(tmp_path):
    from torchmetrics.functional.image.lpips import _LPIPS

    torch.manual_seed(0)
    network = _LPIPS(net="alex", pnet_rand=True)
    state = {f"features.{name.partition('.')[2]}": value for name, value in network.net.state_dict().items()}
    torch.save(state, tmp_path / "alexnet.pth")
    distance, sha256 = read_lpips(tmp_path / "alexnet.pth")
    x, y = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    assert torch.equal(distance(x, y), network(x, y).flatten())
    assert len(sha256) == 64
    grey = torch.zeros(1, 1, LPIPS_SIDE, LPIPS_SIDE, dtype=torch.uint8)
    assert fidelity(grey, grey, distance)["lpips"].tolist() == [0.0]
    with pytest.raises(RuntimeError, match="too small"):
        fidelity(grey[..., 1:], grey[..., 1:], distance)
    with pytest.raises(ValueError, match="there is no such file"):
        read_lpips(tmp_path / "none.pth")
    torch.save({"a": x}, tmp_path / "alexnet.pth")
    with pytest.raises(ValueError, match="does not hold"):
        read_lpips(tmp_path / "alexnet.pth")

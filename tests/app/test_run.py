"""A whole run: what it leaves behind, and that it can go on."""

import csv
import json
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import QUICK
from filelock import FileLock
from PIL import Image

from denoiselab.training.checkpoint_files import read_checkpoint


def test_a_run_directory_holds_everything(finished):
    # Other tests' commands may have left results of their own.
    assert {p.name for p in finished.iterdir() if not p.name.endswith(".lock")} - {"moments", "likelihood"} == {
        "checkpoints", "config.yaml", "frontier.csv", "frontier.html", "frontier.json", "frontier.png",
        "held_out_loss.json", "influences", "metrics.csv", "run.json", "samples", "verdicts.json", "wandb",
    }  # fmt: skip
    with (finished / "frontier.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["sampler"], row["nfe"]) for row in rows] == [("ddim", "2"), ("ddim", "3")]
    for row in rows:
        assert float(row["score"]) > 0
        assert row["metric"] == "fd_classifier"
        assert row["n"] == "8"
        assert len(row["weights_sha256"]) == len(row["extractor_sha256"]) == len(row["reference_sha256"]) == 64
    with (finished / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["images_seen"] for row in rows if row["train/loss"]] == ["32", "64"]
    assert [row["images_seen"] for row in rows if row["score/fd_classifier8/ddim@2"]] == ["64"]
    for picture in ("frontier.png", "samples/ddim.png", "samples/data.png", "samples/preview/images_000000000064.png"):
        with Image.open(finished / picture) as image:
            assert min(image.size) > 50
    info = json.loads((finished / "run.json").read_text())
    assert info["starts"][0]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert list((finished / "wandb").glob("offline-run-*/*.wandb"))
    assert not list(finished.rglob("*.tmp"))


def test_the_user_sees_the_phases_the_table_and_the_paths(finished):
    out = (finished.parent / "stdout.txt").read_text()
    assert "fd_classifier" in out
    assert "ddim" in out
    for line in out.splitlines():
        if str(finished) in line:
            path = line.split(": ", 1)[1]
            assert (finished / path).exists()
    err = (finished.parent / "stderr.txt").read_text()
    for phase in ("training", "classifier", "frontier"):
        assert f"{phase}: 100%" in err
    assert "img/s" in err
    assert "call/s" in err  # a frontier counts network calls
    assert "loss=" in err
    assert "held-out images" in err


def test_checkpoints_hold_nothing_that_runs(finished):
    path = finished / "checkpoints" / "last.ckpt"
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    checkpoint = read_checkpoint(path)
    assert checkpoint["denoiselab"]["images_seen"] == 64
    assert checkpoint["denoiselab"]["config"]["network"]["channels"] == 8


def test_a_finished_run_is_not_run_again(finished, tmp_path, invoke):
    copy = shutil.copytree(finished, tmp_path / "run")
    before = (copy / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    result = invoke("train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={copy}")
    assert result.code == 0
    assert "64 of 64 images seen" in result.err
    assert (copy / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before
    old, new = (json.loads((p / "frontier.json").read_text()) for p in (finished, copy))
    assert new == old  # seconds included: no cell was scored again


def test_a_run_can_be_extended_and_rescored(finished, tmp_path, invoke):
    copy = shutil.copytree(finished, tmp_path / "run")
    result = invoke(
        "train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={copy}", "max_images=96", "evaluation.nfe=[2]"
    )
    assert result.code == 0
    assert read_checkpoint(copy / "checkpoints" / "last.ckpt")["denoiselab"]["images_seen"] == 96
    assert (copy / "metrics.csv").read_text().startswith((finished / "metrics.csv").read_text())
    old, new = (json.loads((p / "frontier.json").read_text()) for p in (finished, copy))
    assert new[: len(old)] == old  # the scores of the shorter training stay
    assert len(new) == len(old) + 1
    assert new[-1]["weights_sha256"] != old[0]["weights_sha256"]
    assert (old[0]["images_seen"], new[-1]["images_seen"]) == (64, 96)
    assert "changed since this run's last start: max_images 64 -> 96" in result.err
    assert "max_images: 96" in (copy / "config.yaml").read_text()


def test_budgets_that_are_asked_for_have_no_others_on_top(tmp_path, invoke):
    """The default frontier has ancestral@100 beside its own budgets."""
    quick = [argument for argument in QUICK if not argument.startswith(("debug=", "evaluation.samplers="))]
    small = ["max_images=64", "batch_size=32", "logger=none", "callbacks.frontier.every_images=null"]
    result = invoke(
        "train.py", *quick, *small, f"paths.log_dir={tmp_path}", f"paths.run_dir={tmp_path / 'run'}",
        "evaluation.samplers=[ancestral]", "evaluation.nfe=[2]", "evaluation.num_samples=8",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert [r["nfe"] for r in json.loads((tmp_path / "run" / "frontier.json").read_text())] == [2]
    assert "extra_nfe: {}" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_table_that_was_lost_is_written_anew(finished, tmp_path, invoke):
    copy = shutil.copytree(finished, tmp_path / "run")
    (copy / "frontier.csv").unlink()
    (copy / "checkpoints" / ".last.ckpt.x.tmp").write_text("half")
    result = invoke("train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={copy}")
    assert result.code == 0, result.err
    assert (copy / "frontier.csv").read_bytes() == (finished / "frontier.csv").read_bytes()
    assert not list(copy.rglob("*.tmp"))


def test_the_logged_loss_and_averages_do_not_depend_on_accumulation(tmp_path, invoke):
    losses, averages = [], []
    for count in (1, 2, 4):
        path = tmp_path / str(count)
        result = invoke(
            "train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={path}", "evaluation.nfe=[2]",
            f"trainer.accumulate_grad_batches={count}", "ema=power", "ema.snapshots.every_images=32",
        )  # fmt: skip
        assert result.code == 0, result.err
        files = sorted((path / "checkpoints" / "snapshots").iterdir())
        assert [file.name for file in files] == ["000000000032.pt", "000000000064.pt"]
        tracked = [torch.load(file, weights_only=True)["averages"] for file in files]
        averages.append([tensor for one in tracked for average in one.values() for tensor in average.values()])
        with (path / "metrics.csv").open() as file:
            losses.append([float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)
    for other in averages[1:]:
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(averages[0], other, strict=True))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, invoke):
    result = invoke(
        "train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={tmp_path / 'run'}", "optimizer.lr=1e20",
        "lr_schedule.images=0", "max_images=960",
    )  # fmt: skip
    assert result.code == 1
    assert "train/loss is" in result.last
    assert "optimizer.lr" in result.last


def test_a_shorter_training_than_the_run_has_seen_is_refused(finished, tmp_path, invoke):
    copy = shutil.copytree(finished, tmp_path / "run")
    result = invoke("train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={copy}", "max_images=32")
    assert result.code == 2
    assert (copy / "config.yaml").read_bytes() == (finished / "config.yaml").read_bytes()
    assert (copy / "run.json").read_bytes() == (finished / "run.json").read_bytes()
    assert "max_images=32" in result.last
    assert "has seen 64" in result.last


def test_a_run_of_other_data_is_refused(finished, tmp_path, invoke):
    copy = shutil.copytree(finished, tmp_path / "run")
    info = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**info, "data_sha256": "0" * 64}))
    result = invoke("train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={copy}")
    assert result.code == 2
    assert "was started on other samples (sha256 000000000000, now" in result.last


def test_a_run_of_another_configuration_is_refused(finished, tmp_path, invoke):
    copy = shutil.copytree(finished, tmp_path / "run")
    before = (copy / "config.yaml").read_bytes()
    result = invoke("train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={copy}", "network.channels=16")
    assert result.code == 2
    assert "network.channels=16" in result.last
    assert "network.channels=8" in result.last
    assert (copy / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("option", ["optimizer.weight_decay=0.5", "trainer.gradient_clip_val=0.1"])
def test_options_that_change_the_training_are_refused(option, finished, tmp_path, invoke):
    copy = shutil.copytree(finished, tmp_path / "run")
    result = invoke("train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={copy}", "max_images=96", option)
    assert result.code == 2
    assert option.split("=")[0] in result.last


def test_a_directory_in_use_is_refused(finished, tmp_path, invoke):
    copy = shutil.copytree(finished, tmp_path / "run")
    with FileLock(copy / ".lock"):
        result = invoke("train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={copy}", "max_images=96")
    assert result.code == 2
    assert "another process is using it" in result.last
    assert read_checkpoint(copy / "checkpoints" / "last.ckpt")["denoiselab"]["images_seen"] == 64


class Payload:
    def __reduce__(self):
        return print, ("code ran",)


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def foreign(path):
    torch.save({"weights": torch.zeros(3)}, path)


def pickled(path):
    torch.save({**torch.load(path, weights_only=True), "extra": Payload()}, path)


def other_network(path):
    checkpoint = torch.load(path, weights_only=True)
    key = next(iter(checkpoint["state_dict"]))
    checkpoint["state_dict"][key] = torch.zeros(1, 2, 3)
    torch.save(checkpoint, path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncated, "damaged or truncated"),
        (foreign, "not a checkpoint of denoiselab"),
        (pickled, "pickled objects"),
        (other_network, "belongs to another network"),
    ],
)
def test_bad_checkpoints_are_refused_by_both_programs(finished, tmp_path, invoke, damage, says):
    copy = shutil.copytree(finished, tmp_path / "run")
    path = copy / "checkpoints" / "last.ckpt"
    for other in {*path.parent.glob("*.ckpt")} - {path}:
        other.unlink()  # nothing to fall back to
    damage(path)
    before = path.read_bytes()
    for arguments in (
        ("train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={copy}", "max_images=96"),
        ("sample.py", f"ckpt={copy}", "num_samples=2", "sampler.steps=2"),
    ):
        result = invoke(*arguments)
        assert result.code == 2
        assert says in result.last
        assert str(path) in result.last
        assert "code ran" not in result.out + result.err
    assert path.read_bytes() == before
    assert (copy / "config.yaml").read_bytes() == (finished / "config.yaml").read_bytes()


def test_a_full_disk_is_told_at_the_start(tmp_path, invoke, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 5_000_000))
    result = invoke("train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={tmp_path / 'run'}")
    assert result.code == 2
    assert "5 MB are free" in result.last
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_write_that_fails_leaves_the_former_checkpoint(finished, tmp_path, run):
    """A limit on file size stands in for a disk that fills up in the middle of training."""
    import resource

    copy = shutil.copytree(finished, tmp_path / "run")
    path = copy / "checkpoints" / "last.ckpt"
    before = path.read_bytes()
    result = run(
        "train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={copy}", "max_images=640",
        f"paths.cache_dir={finished.parent / 'cache'}",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )  # fmt: skip
    assert result.code == 1
    assert f"{path}: cannot be written" in result.last
    assert "Traceback" not in result.err
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".*"))


def test_importing_the_mathematics_is_light():
    code = (
        "import sys, denoiselab.denoiser, denoiselab.samplers, denoiselab.objectives, denoiselab.networks;"
        "print([m for m in ('pytorch_lightning', 'hydra', 'wandb', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

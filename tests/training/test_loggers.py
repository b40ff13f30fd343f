import csv
from concurrent.futures import wait

import pytest

from denoiselab.training.loggers import MetricsCSV, WandB, WandBRun


def rows(path):
    with path.open(newline="") as file:
        return [(int(r["images_seen"]), r["loss"], r.get("extra") or "") for r in csv.DictReader(file)]


def test_rows_columns_and_resume(tmp_path):
    path = tmp_path / "metrics.csv"
    log = MetricsCSV(path, images_seen=0)
    log.truncate()
    log.log_metrics({"loss": 0.5}, step=10)
    log.log_metrics({"loss": 0.25}, step=20)
    log.log_metrics({"loss": 0.125, "extra": 1}, step=30)
    assert rows(path) == [(10, "0.5", ""), (20, "0.25", ""), (30, "0.125", "1")]
    again = MetricsCSV(path, images_seen=20)
    again.truncate()
    assert rows(path) == [(10, "0.5", ""), (20, "0.25", "")]
    again.log_metrics({"loss": 0.0625, "extra": 2}, step=25)
    assert rows(path)[-1] == (25, "0.0625", "2")
    # A run that starts anew in the same place, before its first checkpoint, keeps nothing.
    MetricsCSV(path, images_seen=0).truncate()
    assert not path.exists()


def test_a_half_written_or_damaged_row_is_left_out_with_a_warning(tmp_path):
    path = tmp_path / "metrics.csv"
    for damaged in (b"30,0.1", b"3\xff,0.125,1\r\n", b"30,0.125,1,7\r\n", b"30"):
        path.write_bytes(b"images_seen,loss,extra\r\n10,0.5,\r\n20,0.25,2\r\n" + damaged)
        with pytest.warns(UserWarning, match=r"metrics\.csv: 1 rows are damaged"):
            log = MetricsCSV(path, images_seen=40)
        log.truncate()
        assert rows(path) == [(10, "0.5", ""), (20, "0.25", "2")]
    path.write_bytes(b"images_seen,loss\r\n10,0.5\r\n\0\0\0\0")  # as a file system may leave its end
    MetricsCSV(path, images_seen=40).truncate()
    assert rows(path) == [(10, "0.5", "")]
    path.write_bytes(b"images_sefn,loss\r\n10,0.5\r\n")
    with pytest.warns(UserWarning, match=r"metrics\.csv: 1 rows are damaged"):
        assert MetricsCSV(path, images_seen=40)._columns == ["images_seen"]


def test_wandb_is_offline_without_a_key_and_never_asks(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(variable, raising=False)
    assert WandB().mode == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert WandB().mode == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert WandB().mode == "offline"
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.delenv("WANDB_MODE")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret")
    (tmp_path / ".netrc").chmod(0o600)
    assert WandB().mode == "online"


def tried(path):
    run = WandBRun({"id": "x", "mode": "no such mode", "dir": str(path)})
    run.log_metrics({"loss": 1.0}, step=1)
    wait(run._tasks)
    return run


def test_trouble_with_wandb_does_not_end_the_training(tmp_path):
    told = r"W&B: .*metrics\.csv and frontier\.csv hold everything"
    with pytest.warns(UserWarning, match=told):  # at once
        run = tried(tmp_path)
    with pytest.warns(UserWarning, match=told):
        run.close(0)


@pytest.mark.parametrize("project", ["", "team/name", "a#b"])
def test_a_project_that_wandb_would_not_take_is_refused_before_the_training(project):
    with pytest.raises(ValueError, match=f"project={project}: "):
        WandB(project)

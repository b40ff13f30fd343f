import csv

from denoiselab.training.loggers import MetricsCSV


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

"""`python -m denoiselab.references`, and scores against what it made, as a user asks for them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK

PROGRAM = "src/denoiselab/references.py"
CLASSIFIER = ["evaluation.extractor.epochs=1"]


@pytest.mark.slow
def test_train_finds_what_the_command_computed(tmp_path, invoke):
    logs = f"paths.log_dir={tmp_path}"
    made = invoke(PROGRAM, logs, *CLASSIFIER, "debug=fast_dev_run", "traceback=false")  # which shortens the data
    assert made.code == 0, made.err
    path = Path(made.out.split()[-1])
    result = invoke("train.py", *QUICK, "logger=none", logs, f"paths.run_dir={tmp_path / 'run'}")
    assert result.code == 0, result.err
    assert [*path.parent.glob("reference-*.safetensors")] == [path]
    for record in json.loads((tmp_path / "run" / "frontier.json").read_text()):
        assert record["reference_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert {*record["scores"]} == {"fd_classifier", "fd_classifier_infinity"}


@pytest.mark.parametrize(
    ("program", "arguments", "says"),
    [
        (PROGRAM, ["evaluation/extractor=inception"], ["6726825d0af5f729", "inception-2015-12-05", "download=true"]),
        (PROGRAM, ["evaluation/extractor=inceptoin"], ["did you mean 'inception'"]),
        (PROGRAM, ["experiment=toy_2d"], ["points", "nothing to compute"]),
        (PROGRAM, ["dat=digits"], ["dat=digits", "did you mean 'data'"]),
        (PROGRAM, ["accelerator=tpu"], ["accelerator=tpu", "auto, cpu, gpu"]),
        (PROGRAM, ["download=maybe"], ["download=maybe"]),
        (PROGRAM, ["evaluation.reference=a.npz"], ["evaluation.reference=a.npz", "leave it out"]),
        ("train.py", ["evaluation/extractor=clip"], ["CLIP vit-b-32", "sha256 40d36571", "download=true"]),
        (
            "train.py",
            ["evaluation.metrics=[fid]"],
            ["evaluation.metrics: metric=fid: unknown", "frechet, frechet_ratio, inception_score, kernel"],
        ),
        ("train.py", ["evaluation.metrics=[frechet,frechet]"], ["evaluation.metrics", "more than once"]),
        ("train.py", ["evaluation.metrics=[]"], ["evaluation.metrics=[]", "at least one"]),
        ("train.py", ["evaluation.metrics=[kernel]"], ["kernel", "num_samples=", "block_size=1000"]),
        ("train.py", ["evaluation.metrics=[spatial_frechet]"], ["spatial_frechet reads spatial", "DomainClassifier"]),
        ("train.py", ["+evaluation.metric_options.kernel.blocks=3"], ["metric_options.kernel", "not one of"]),
        ("train.py", ["+evaluation.metric_options.frechet.lyer=a"], ["metric_options.frechet.lyer", "frechet.layer'"]),
        ("train.py", ["+evaluation.metric_options.frechet.layer=a"], ["metric_options.frechet.layer=a", "spatial"]),
        ("train.py", ["evaluation.reference=absent.npz"], ["evaluation.reference=absent.npz", "no such file"]),
        ("train.py", ["evaluation.reference=edm.npz"], ["edm.npz", "statistics of inception_v3", "classifier"]),
        ("train.py", ["experiment=toy_2d", "evaluation.metrics=[frechet]"], ["SlicedWasserstein is a metric itself"]),
    ],
)
def test_refused_in_one_sentence(program, arguments, says, tmp_path, invoke, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    np.savez(tmp_path / "edm.npz", mu=np.zeros(2048), sigma=np.eye(2))
    monkeypatch.chdir(tmp_path)
    result = invoke(program, f"paths.log_dir={tmp_path / 'logs'}", *arguments)
    assert result.code == 2
    for text in says:
        assert text in result.last
    assert "Traceback" not in result.err
    assert not (tmp_path / "logs").exists()
    assert not (tmp_path / "hub").exists()

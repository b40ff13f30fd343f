"""What a model cost before it is sampled, and scores by features that its training saw."""

import json

from denoiselab.evaluation.report.spent import circular, spent, training_of

FLOW = {"checkpoint_sha256": "flow", "images_seen": 384_000}


def test_own_calls_those_of_teachers_and_their_trainings(tmp_path):
    """A reflow that starts from the flow of its pairs, whose training counts once."""
    reflow = {
        "training": {"calls_per_image": 1.0, "features": []},
        "initial": FLOW,
        "teacher": {**FLOW, "calls_per_image": 0, "pairs": 8000, "calls": 240_000},
    }
    (tmp_path / "run.json").write_text(json.dumps({**reflow, "starts": []}))
    assert training_of(tmp_path) == reflow
    assert training_of(tmp_path / "none") == {}
    assert spent(reflow, 1000) == {
        "training_images": 1000,
        "training_calls": 1000,
        "teacher_calls": 240_000,
        "models_before": 384_000,
        "before_sampling": 625_000,
    }


def test_a_teacher_that_learned_from_another_counts_with_it():
    teacher = {
        "checkpoint_sha256": "b",
        "images_seen": 50,
        "calls_per_image": 2,
        "teacher": {**FLOW, "calls_per_image": 3},
    }
    info = {"training": {"calls_per_image": 2.0}, "teacher": teacher, "initial": {**teacher, "images_seen": 50}}
    assert spent(info, 100)["before_sampling"] == 200 + 200 + (50 + 150) + 384_000
    assert spent({"teacher": teacher}, 100)["training_calls"] is None
    started = {"initial": {"checkpoint_sha256": "c", "images_seen": 10, "initial": FLOW}}
    assert spent(started, 100)["models_before"] == 10 + 384_000
    assert spent(info, 0) == {}


def test_scores_by_features_of_the_training_are_circular():
    info = {"training": {"features": ["vit_base_patch14_dinov2.lvd142m"]}}
    said = "trained on features of vit_base_patch14_dinov2.lvd142m, by which dinov2 scores"
    assert circular(info, {"extractor": "dinov2"}) == said
    assert circular(info, {"extractor": "inception_v3"}) is None
    assert circular({}, {"extractor": "dinov2"}) is None

"""A linear classifier of the data's classes on features of another network."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from denoiselab.data import ImageSet
from denoiselab.evaluation import ClassAccuracy, LinearJudge, Workspace
from denoiselab.evaluation.feature_contracts import FEATURES, LOGITS


def pictures(classes, n, seed):
    """Noise, brighter by class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    noise = torch.randint(80, (n, 3, 8, 8), generator=generator)
    return ImageSet((noise + 60 * labels[:, None, None, None]).to(torch.uint8), labels)


@pytest.mark.parametrize("classes", [2, 3])
def test_its_logits_are_those_of_the_regression_on_standardised_features(classes, tmp_path):
    train, held_out = pictures(classes, 60, 0), pictures(classes, 24, 1)
    work = Workspace(tmp_path, shown=False)
    scorer = LinearJudge(size=32, c=0.1).fit(train, held_out, {"accuracy": ClassAccuracy()}, {}, work)
    assert [*scorer.lower_is_better] == ["accuracy_judge"]
    judge = scorer.extractor
    features, out = judge(train.images)[FEATURES].double().numpy(), judge(held_out.images)
    scaler = StandardScaler().fit(features)
    # scikit-learn divides by the deviation of n, not of n - 1: the penalty differs so little that answers agree.
    theirs = LogisticRegression(C=0.1, max_iter=2000).fit(scaler.transform(features), train.labels)
    wanted = torch.from_numpy(theirs.decision_function(scaler.transform(out[FEATURES].double().numpy())))
    logits = out[LOGITS].double()
    found = logits[:, 1] - logits[:, 0] if classes == 2 else logits
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)
    right = float((logits.argmax(1) == held_out.labels).double().mean())
    assert right > 0.8
    assert judge.facts["extractor_accuracy"] == right
    again = LinearJudge(size=32, c=0.1).fit(train, held_out, {"accuracy": ClassAccuracy()}, {}, work)
    assert again.fingerprint == scorer.fingerprint
    assert len([*tmp_path.glob("judge-*.safetensors")]) == 1


def test_data_of_one_class_are_refused():
    with pytest.raises(ValueError, match="LinearJudge needs classes"):
        LinearJudge(size=32).check_data(pictures(1, 4, 0))
    with pytest.raises(ValueError, match="c=0: it must be positive"):
        LinearJudge(c=0)

"""`task=search`: all combinations on the same noise, and the best of them on fresh samples."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from denoiselab.app.tasks import search
from denoiselab.pretrained import read

LATER = ("rescore", "stop", "level", "max_samples", "boundary", "error_split", "fine_samplers", "fine_nfe")


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))


SMALL = ["task=search", "num_samples=48", "nfe=3"]


def result_of(run):
    (path,) = (run / "search").glob("search_*.json")
    return json.loads(path.read_text())


def cells_of(run):
    return json.loads((run / "search" / "frontier.json").read_text())


def test_a_search_scores_all_combinations_and_the_best_again(copy, invoke):
    over = "task.over={weights:[raw,ema],sampler.spacing:[karras,vp_time]}"
    words = [f"ckpt={copy}", *SMALL, "task.metrics=[frechet,precision_recall]", "confirm=2", over]
    result = invoke("sample.py", *words)
    assert result.code == 0, result.err
    found = result_of(copy)
    combinations = found["combinations"]
    asked = [{"weights": w, "sampler.spacing": s} for w in ("raw", "ema") for s in ("karras", "vp_time")]
    assert [one["options"] for one in combinations] == asked
    cells = {record["cell"]: record for record in cells_of(copy)}
    for one in combinations:
        record = cells[one["cell"]]
        assert (record["nfe"], record["n"], record["score"]) == (3, 48, one["score"])
        assert record["weights"] == one["options"]["weights"]
        assert record["settings"]["spacing"]["_target_"].rpartition(".")[2].lower() == one["options"][
            "sampler.spacing"
        ].replace("_", "")
    best = min(range(4), key=lambda i: combinations[i]["score"])
    ((choice,), verdicts) = found["chosen"], [one["verdict"] for one in combinations]
    assert choice["combination"] == best
    assert verdicts[best] == "chosen"
    assert verdicts.count("chosen") == 1
    fresh = [one for one in combinations if one["fresh_cell"] is not None]
    assert len(fresh) == min(2, 1 + verdicts.count("tie"))
    for one in fresh:
        record = cells[one["fresh_cell"]]
        assert (record["first"], record["n"], record["score"]) == (48, 48, one["fresh_score"])
        assert one["scores"] == cells[one["cell"]]["scores"]
        assert one["fresh_scores"] == record["scores"]
        (recall,) = (score["value"] for name, score in record["scores"].items() if name.startswith("recall"))
        options = r"\s+".join(one["options"].values())
        assert re.search(rf"{options}\s.* {recall:.2f}\b", result.out)
        assert one["optimism"] == pytest.approx(one["fresh_score"] - one["score"])
    assert len(cells) == 4 + len(fresh)
    assert len(fresh) == 2
    (rival,) = found["fresh_differences"]
    pair = [combinations[rival[place]]["fresh_score"] for place in ("place", "best")]
    assert rival["best"] == best
    if rival["at"] == "n":
        assert rival["difference"] == pytest.approx(pair[0] - pair[1])
    errors = [combinations[rival[place]]["fresh_standard_error"] for place in ("place", "best")]
    assert 0 < rival["half_width"] < 1.96 * sum(errors)  # paired
    assert re.search(r"on fresh samples \S+.* is (lower|higher) by \S+ \+- \S+.* than the chosen one: ", result.out)
    assert "on fresh samples" in result.out
    assert f"chosen: weights={combinations[best]['options']['weights']} sampler.spacing=" in result.out
    before = cells_of(copy)
    assert invoke("sample.py", *words).code == 0
    assert cells_of(copy) == before  # no cell is scored again
    assert result_of(copy) == found


def test_each_budget_has_a_choice_of_its_own(copy, invoke):
    words = [f"ckpt={copy}", "task=search", "num_samples=48", "confirm=1"]
    result = invoke("sample.py", *words, "over={sampler:[ddim,heun],nfe:[3,4]}")
    assert result.code == 0, result.err
    found = result_of(copy)
    asked = [{"sampler": name, "nfe": nfe} for name in ("ddim", "heun") for nfe in (3, 4)]
    assert [one["options"] for one in found["combinations"]] == asked  # heun spends 3 of both
    assert [one["nfe"] for one in found["combinations"]] == [3, 4, 3, 3]
    assert [one["budget"] for one in found["chosen"]] == [3, 4]
    assert sum(one["fresh_cell"] is not None for one in found["combinations"]) == 2
    assert result.out.count("chosen: sampler=") == 2


def test_a_run_without_the_options_of_later_versions_is_searched(copy, invoke, monkeypatch):
    """Runs of version 0.1 state none of them."""

    def read_old(*given, **options):
        loaded = read(*given, **options)
        evaluation = {option: value for option, value in loaded.config["evaluation"].items() if option not in LATER}
        return replace(loaded, config={**loaded.config, "evaluation": evaluation})

    monkeypatch.setattr(search, "read", read_old)
    result = invoke("sample.py", f"ckpt={copy}", *SMALL, "over={weights:[raw]}")
    assert result.code == 0, result.err


REFUSED = [
    ([], ["task.over", "at least one option"]),
    (["over={guidence:[1,2]}"], ["task.over.guidence: unknown option", "did you mean 'guidance'"]),
    (["over={weights:[]}"], ["task.over.weights=[]", "at least one value"]),
    (["over={weights:ema}"], ["task.over", "list"]),
    (["over={weights:[ema,emma]}"], ["weights=emma", "did you mean 'ema'"]),
    (["over={weights:[ema,ema@0.1]}"], ["weights=ema@0.1", "ema=power"]),
    (["over={guidance:[1,2]}"], ["guidance=2", "takes no condition"]),
    (["over={guidance:[a]}"], ["task.over.guidance", "number"]),
    (["over={nfe:[3,3]}"], ["task.over.nfe=[3, 3]", "more than once"]),
    (["over={nfe:[0]}"], ["task.over.nfe=0", "greater than or equal to 1"]),
    (["over={sampler:[ddim,huen]}"], ["sampler=huen", "did you mean"]),
    (["over={sampler.etta:[0,1]}"], ["sampler.etta=0: unknown option", "did you mean 'sampler.eta'"]),
    (["over={sampler.eta:[0,2]}"], ["eta=2", "between 0 and 1"]),
    (["over={sampler.spacing:[karas]}"], ["spacing=karas", "did you mean 'karras'"]),
    (["over={sampler.eta.x:[1]}"], ["task.over.sampler.eta.x", "has no options"]),
    (["over={sampler.steps:[3,4]}", "nfe=3"], ["task.over.sampler.steps", "given by nfe"]),
    (["over={nfe:[3]}", "confirm=0"], ["confirm=0"]),
    (["over={sampler:[heun]}", "nfe=0"], ["nfe=0"]),
]


@pytest.mark.parametrize(("arguments", "says"), REFUSED, ids=[" ".join(case[0]) or "nothing" for case in REFUSED])
def test_a_search_refuses(arguments, says, finished, tmp_path, invoke):
    out = tmp_path / "out"
    result = invoke("sample.py", f"ckpt={finished}", "task=search", "num_samples=8", f"out={out}", *arguments)
    assert result.code == 2, result.err
    for text in says:
        assert text in result.last
    assert not out.exists()


def test_the_same_command_goes_on_in_its_folder(copy, tmp_path, invoke):
    words = [f"ckpt={copy}", *SMALL, f"out={tmp_path / 'found'}", "task.over={sampler.spacing:[karras,vp_time]}"]
    for _ in range(2):
        result = invoke("sample.py", *words)
        assert result.code == 0, result.err
    assert len([*(tmp_path / "found").glob("search_*.json")]) == 1

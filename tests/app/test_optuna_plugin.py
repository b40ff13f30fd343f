"""`hydra/sweeper=optuna`, with a stand-in for the plugin, which needs an older Optuna or a newer Hydra than ours."""

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import hydra_plugins
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from denoiselab.app.commands import cli

MODULE = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper"


class OptunaSweeper(Sweeper):
    """As the plugin: it is given a sampler, asks it for the jobs and has the launcher run them."""

    made: Any = None  # sampler, arguments and the values of the jobs

    def __init__(self, sampler, n_trials, params=None, custom_search_space=None):
        self.sampler, self.n_trials = sampler, n_trials

    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments):
        fixed = [text for text in arguments if "interval(" not in text]
        jobs = [[*fixed, f"optimizer.lr={lr}"] for lr in (0.001, 0.002)[: self.n_trials]]
        values = [job.return_value for job in self.launcher.launch(jobs, initial_job_idx=0)]
        type(self).made = self.sampler, arguments, values


OptunaSweeper.__module__ = MODULE


@pytest.fixture
def plugin(monkeypatch):
    """Hydra finds the stand-in where it finds the plugin."""
    package, module = ModuleType(MODULE.rpartition(".")[0]), ModuleType(MODULE)
    monkeypatch.setattr(package, "optuna_sweeper", module, raising=False)
    monkeypatch.setattr(module, "OptunaSweeper", OptunaSweeper, raising=False)
    for one in (package, module):
        monkeypatch.setitem(sys.modules, one.__name__, one)
    monkeypatch.setattr(hydra_plugins, "hydra_optuna_sweeper", package, raising=False)
    monkeypatch.setitem(Plugins.instance().class_name_to_class, f"{MODULE}.OptunaSweeper", OptunaSweeper)
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", {**store.repo, "hydra": {**store.repo["hydra"]}})
    store.repo["hydra"]["sweeper"] = {**store.repo["hydra"]["sweeper"]}
    node = {"_target_": f"{MODULE}.OptunaSweeper", "sampler": {"_target_": "optuna.samplers.TPESampler", "seed": None}}
    options = {"n_trials": 2, "params": None, "custom_search_space": None}
    store.store(group="hydra/sweeper", name="optuna", node=node | options, provider="stand-in")
    monkeypatch.setattr(OptunaSweeper, "made", None)
    command = SimpleNamespace(check=lambda config, sweeping: None, run=lambda config, path: config["optimizer"]["lr"])
    monkeypatch.setattr(cli, "_command", lambda name: command)
    yield
    GlobalHydra.instance().clear()


def test_the_plugin_runs_a_sweep_with_a_sampler_of_optuna(plugin, invoke, tmp_path):
    from optuna.samplers import TPESampler

    space = "optimizer.lr=tag(log,interval(1e-4,1e-2))"
    result = invoke(
        "train.py", f"paths.log_dir={tmp_path}", "-m", "hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=1", space
    )
    assert result.code == 0, result.err
    sampler, arguments, values = OptunaSweeper.made
    assert isinstance(sampler, TPESampler)
    assert space in arguments
    assert values == [0.001, 0.002]
    (manifest,) = tmp_path.rglob("sweep.json")
    assert json.loads(manifest.read_text())["swept"] == ["optimizer.lr"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("hydra.sweeper.sampler._target_=os.system", "hydra.sweeper.sampler: os.system is not allowed there"),
        # The name begins as allowed, and ends in another module's function.
        ("hydra.sweeper.sampler._target_=optuna.samplers._base.abc.os.system", "is not allowed there"),
        ("hydra.sweeper.sampler._target_=optuna.samplers.nsgaii.warnings.sys.exit", "is not allowed there"),
        ("+hydra.sweeper.sampler.x={_target_:builtins.eval}", "builtins.eval is not allowed there"),
        ("+hydra.sweeper.storage={_target_:optuna.samplers.TPESampler}", "hydra.sweeper.storage: optuna.samplers"),
        ("hydra.sweeper.custom_search_space=os.system", "hydra.sweeper.custom_search_space=os.system: is not allowed"),
    ],
)
def test_and_nothing_else_is_called(plugin, override, says, invoke, tmp_path):
    result = invoke("train.py", f"paths.log_dir={tmp_path}", "-m", "hydra/sweeper=optuna", override, "seed=0,1")
    assert (result.code, OptunaSweeper.made) == (2, None), result.err
    assert says in result.last

"""The options that belong to no class: their types and ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from denoiselab.app.config.spelling import override
from denoiselab.errors import BadInput, check_given, closest

Config = dict[str, Any]  # of a program, resolved, plain containers
Node = dict[str, Any]
_Model = TypeVar("_Model", bound="_Settings")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Paths(_Settings):
    """Where files go."""

    log_dir: str
    run_dir: str
    cache_dir: str


class Ema(_Settings):
    """Name to profile, and the snapshots of those by a power function."""

    profiles: dict[str, Node]
    snapshots: Node | None = None


class Evaluation(_Settings):
    """The frontier at the end of training, or of a checkpoint."""

    samplers: list[str | Node]
    nfe: list[int]
    extra_nfe: dict[str, list[int]]
    num_samples: int = Field(ge=2)
    batch_size: int = Field(ge=1)
    seed: int = Field(ge=0, lt=2**63)
    weights: str | list[str] | None
    guidance: list[Annotated[float, Field(allow_inf_nan=False)]]
    guiders: list[str | Node]
    extractor: Node
    metrics: list[str]
    metric_options: dict[str, Node]
    diversity: bool = True
    reference: str | None
    reference_n: int | None = Field(ge=2)
    reference_data: Literal["same", "any"]
    rescore: bool
    stop: Literal["fixed", "decided"]
    level: float = Field(ge=0.001, lt=1)
    max_samples: int = Field(ge=2)
    boundary: Literal["simulated", "always_valid"]
    error_split: int = Field(ge=0)
    fine_samplers: list[str]
    fine_nfe: int = Field(ge=1)
    published: str | None = None


# Options of an evaluation that refine another one: where that one is given, they are as by default.
_REFINEMENTS: dict[str, Node] = {
    "nfe": {"extra_nfe": {}},
    "reference": {"reference_n": None, "reference_data": "same"},
}


def replaced(evaluation: Mapping[str, Any], given: Mapping[str, Any]) -> Node:
    """The options of an evaluation with those that are given, which replace what refined the former ones too.

    Budgets of single samplers go with `nfe`, facts about a reference with `reference`, and options of metrics with
    the metrics that have them.
    """
    out = {**evaluation, **given}
    for name, refinements in _REFINEMENTS.items():
        if name in given:
            out |= {key: value for key, value in refinements.items() if key not in given}
    if "metrics" in given and "metric_options" not in given:
        out["metric_options"] = {k: v for k, v in out.get("metric_options", {}).items() if k in given["metrics"]}
    return out


class TrainSettings(_Settings):
    """The whole configuration of `train.py`; nodes with a `_target_` are checked against their constructors."""

    name: str = Field(min_length=1, pattern=r"^[\w.-]+$")
    seed: int = Field(ge=0, lt=2**63)
    batch_size: int = Field(ge=1)
    max_images: int = Field(ge=1)
    sigma_data: float = Field(gt=0)
    optimized_metric: str
    init_from: str | None
    init_weights: str | None
    init_optimizer: bool
    traceback: bool
    paths: Paths
    data: Node
    network: Node
    objective: Node
    codec: Node
    conditioner: Node
    optimizer: Node
    lr_schedule: Node
    ema: Ema
    evaluation: Evaluation
    callbacks: dict[str, Node]
    logger: dict[str, Node]
    trainer: Node
    parameterization: Node | None = None  # a classifier has none
    schedule: Node | None = None  # a first stage has neither
    denoiser: Node | None = None
    augmentation: Node | None = None
    stages: list[Node] | None = None
    teacher: str | None = None
    teacher_weights: str | None = None
    teacher_guidance: float = Field(default=1.0, allow_inf_nan=False)
    latents: str | None = None
    pairs: str | None = None
    decode_memory: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    compile: Literal["off", "per_block", "whole"] = "off"
    requeue: bool = False


class SweepSettings(_Settings):
    """The options of a sweep; `conf/sweep` says what they are."""

    launcher: Literal["processes", "slurm"]
    jobs: int | None = Field(ge=1)
    devices_per_job: int = Field(ge=1)
    sbatch: list[str] = []  # of SLURM alone
    sampler: Literal["grid", "random", "tpe"]
    trials: int | None = Field(ge=1)
    seed: int = Field(ge=0)
    pruner: Node | None = None
    resume: str | None


class ClassifierGuidance(_Settings):
    """A classifier, or another log-likelihood, whose gradient guides the sampler."""

    scale: float = Field(allow_inf_nan=False)
    form: Literal["eps", "mean"] = "eps"
    classifier: Node | None = None
    function: str | Node | None = None


class Conditions(_Settings):
    """What samples are conditioned on, in turn, and which channels guidance acts on."""

    prompts: list[str] | None = None
    prompts_file: str | None = None
    split: Literal["held_out", "train"] | None = None
    negative_prompts: list[str] | None = None
    classes: list[int] | None = None
    guided_channels: int | None = None

    @property
    def given(self) -> Node:
        """Options of a run's conditioner to be others than in training."""
        return {name: value for name, value in self if value is not None}


class SampleSettings(_Settings):
    """The configuration of `sample.py`: what all tasks take, the task, and the parts that it takes."""

    ckpt: str | list[str]
    weights: str | list[str] | None
    out: str | None
    accelerator: Literal["auto", "cpu", "gpu"]
    log_dir: str
    traceback: bool
    decode_memory: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    import_: Node | None = Field(default=None, alias="import")
    task: Node
    sampler: Node | None = None
    guider: Node | None = None
    data: Node | None = None
    conditioner: Conditions | None = None
    classifier_guidance: ClassifierGuidance | None = None
    logger: dict[str, Node] = {}


class ReportSettings(_Settings):
    """The whole configuration of `denoiselab.report`."""

    to: Literal["page", "wandb_chart", "wandb_report"]
    runs: list[str]
    sweep_dir: str | None
    out: str | None
    level: float = Field(ge=0.001, lt=1)
    project: str
    entity: str | None
    chart: str
    access: Literal["private", "public"]
    title: str
    traceback: bool


def parse(model: type[_Model], config: Mapping[str, Any], option: str = "") -> _Model:
    """The settings in `config`, plain containers; `option` is what it is called, where it is a part."""
    check_given(config, option)
    try:
        return model.model_validate(config)
    except ValidationError as error:
        detail = error.errors()[0]
        path = ".".join(map(str, (*([option] if option else []), *detail["loc"])))
        if detail["type"] == "extra_forbidden":
            hint = closest(path, model.model_fields)
            raise BadInput(f"{path}={detail['input']}: unknown option; {hint}remove it.") from None
        if detail["type"] == "missing":
            raise BadInput(f"{path}: is missing from the configuration.") from None
        if detail["type"] == "string_pattern_mismatch":  # of `name`, the only one with a pattern
            raise BadInput(f"{path}={detail['input']!r}: may hold letters, digits, '_', '.' and '-' only.") from None
        hint = f"; write {path}=[{detail['input']}]" if detail["type"] == "list_type" else ""
        if detail["type"] == "string_type" and isinstance(detail["input"], (int, float)):
            hint = f"; write {override(path, str(detail['input']))}"
        raise BadInput(f"{path}={detail['input']!r}: {detail['msg'].removeprefix('Input ')}{hint}.") from None

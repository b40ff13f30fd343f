"""The combinations of options that a search scores."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from denoiselab.app.config import choices, overrides
from denoiselab.app.runs.paths import short_hash
from denoiselab.errors import BadInput, closest
from denoiselab.nodes import options
from denoiselab.nodes.instantiate import check as check_nodes
from denoiselab.nodes.instantiate import construct
from denoiselab.samplers import Sampler
from denoiselab.schedules import Schedule

# What can be searched beside the options of the sampler, which are named `sampler.<option>`.
_TYPES: Mapping[str, Any] = {
    "guidance": Annotated[float, Field(allow_inf_nan=False)],
    "weights": str,
    "nfe": Annotated[int, Field(ge=1)],
    "sampler": str,
    "guider": str | dict[str, Any],
}

# Options whose own ones are searched too, as `sampler.<option>`, and that are choices of `conf/`.
_NODES = ("sampler", "guider")

# Groups of `conf/` whose choices an option of a sampler may name.
_GROUPS = ("spacing", "threshold")


@dataclass(frozen=True)
class Rule:
    """A sampler with its options but the number of steps.

    Args:
        label: Its name in records, distinct from those of other rules.
        node: Its configuration.
        sampler: Built.
    """

    label: str
    node: Mapping[str, Any]
    sampler: Sampler


@dataclass(frozen=True)
class Combination:
    """A combination of options.

    Args:
        options: Those that are searched, as they were given.
        rule: Its sampler.
        steps: Of the sampler.
        nfe: Budget of network calls; None: those of `steps`.
        guidance: Scale of the guider.
        guider: Its configuration.
        weights: As they were asked for; None for the first.
    """

    options: Mapping[str, Any]
    rule: Rule
    steps: int
    nfe: int | None
    guidance: float
    guider: Mapping[str, Any]
    weights: str | None

    @property
    def group(self) -> int | None:
        """The budget where several are searched; the combinations of each compete with each other alone."""
        asked: int | None = self.options.get("nfe", self.options.get("sampler.steps"))
        return asked

    def budget(self, schedule: Schedule) -> int:
        """Network calls; of an adaptive sampler, its mean is not known before."""
        sampler = self.rule.sampler
        if self.nfe is not None or sampler.adaptive:
            return self.nfe or 1
        return sampler.nfe(self.steps, schedule)


class Base(NamedTuple):
    """What a combination has where none is searched.

    Attributes:
        sampler: Its configuration.
        nfe: Budget; None for that of the sampler's steps.
        guidance: Scale of the guider.
        guider: Its configuration.
        weights: None for the first.
    """

    sampler: Mapping[str, Any]
    nfe: int | None
    guidance: float
    guider: Mapping[str, Any]
    weights: str | None


def combinations(over: Mapping[str, Sequence[Any]], base: Base) -> list[Combination]:
    """All combinations, checked and built.

    Args:
        over: Option to values.
        base: Where `over` names nothing.

    Raises:
        BadInput: If an option is unknown, or a value refused.
    """
    _check(over, base.nfe)
    rules: dict[str, Rule] = {}
    out = []
    for values in itertools.product(*over.values()):
        chosen = dict(zip(over, values, strict=True))
        rule = _rule(chosen, base.sampler)
        steps = rule.sampler.steps
        rule = rules.setdefault(json.dumps({**rule.node, "steps": None}, sort_keys=True), rule)
        own = choices.own_scale(chosen.get("guider", ""), "task.over.guider")
        scale = float(chosen.get("guidance", base.guidance)) if own is None else own
        guider = _guider(chosen, base.guider)
        budget, weights = chosen.get("nfe", base.nfe), chosen.get("weights", base.weights)
        out.append(Combination(chosen, rule, steps, budget, scale, guider, weights))
    return out


def _check(over: Mapping[str, Sequence[Any]], nfe: int | None) -> None:
    if not over:
        raise BadInput("task.over={}: name at least one option with its values, such as task.over={guidance:[1,2]}.")
    for option, values in over.items():
        known = option in _TYPES or re.fullmatch(rf"({'|'.join(_NODES)})(\.\w+)+", option)
        if not known:
            hint = closest(option, _TYPES)
            raise BadInput(
                f"task.over.{option}: unknown option; {hint}allowed: {', '.join(_TYPES)}, sampler.<option>, "
                "guider.<option>."
            )
        if not values:
            raise BadInput(f"task.over.{option}=[]: name at least one value.")
        if len({json.dumps(value, sort_keys=True) for value in values}) < len(values):
            raise BadInput(f"task.over.{option}={list(values)}: a value is listed more than once.")
        for value in values:
            _check_value(option, value)
    if "sampler.steps" in over and ("nfe" in over or nfe is not None):
        raise BadInput("task.over.sampler.steps: the budget is given by nfe already; leave one out.")


def _check_value(option: str, value: Any) -> None:
    if option in _TYPES:
        options.check_type(f"task.over.{option}", value, _TYPES[option])


def _rule(chosen: Mapping[str, Any], base: Mapping[str, Any]) -> Rule:
    """The sampler of a combination."""
    label, node = re.sub(r"\W", "", base["_target_"].rpartition(".")[2]).lower(), copy.deepcopy(dict(base))
    if "sampler" in chosen:
        ((label, found),) = choices.sampler_nodes([chosen["sampler"]], "task.over.sampler").items()
        node = copy.deepcopy(found)
    node = _with_options("sampler", node, chosen)
    own = [option for option in chosen if option.startswith("sampler.") and option != "sampler.steps"]
    label += "".join(_suffix(option, chosen[option]) for option in sorted(own, key=lambda one: one.count(".")))
    return Rule(label, node, construct(node, "sampler"))


def _guider(chosen: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """The checked configuration of the guider of a combination."""
    node = copy.deepcopy(dict(base))
    if "guider" in chosen:
        (node,) = choices.guider_nodes([chosen["guider"]], "task.over.guider")
    return _with_options("guider", node, chosen)


def _with_options(part: str, node: dict[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The checked node of a part with the options of it that are searched."""
    own = {option: value for option, value in chosen.items() if option.startswith(f"{part}.")}
    for option, value in sorted(own.items(), key=lambda item: item[0].count(".")):
        node = _set(node, option, value)
    node = options.completed(node)
    tree = {part: node}
    options.check(tree)
    check_nodes(tree)
    return node


def _suffix(option: str, value: Any) -> str:
    if option == "sampler.spacing" and isinstance(value, str):
        return f"@{value}"
    text = str(value) if isinstance(value, str | int | float) or value is None else short_hash(value)
    return f",{option.removeprefix('sampler.')}={text}"


def _set(node: dict[str, Any], option: str, value: Any) -> dict[str, Any]:
    """A node with an option of it, or of a node in it, set; a name of a choice is replaced by its node."""
    *path, last = option.split(".")[1:]
    if last in _GROUPS and isinstance(value, str):
        value = _named(last, value, option)
    place = node
    for key in path:
        inner = place.get(key)
        if not isinstance(inner, dict):
            raise BadInput(f"task.over.{option}: unknown option; '{key}' has no options here.")
        place = inner
    place[last] = value
    return node


def _named(group: str, name: str, option: str) -> Any:
    """The node of a choice, or of a grid's file."""
    if group != "spacing":
        return overrides.choice(group, name)
    return choices.sampler_nodes([f"ddim@{name}"], f"task.over.{option}").popitem()[1]["spacing"]

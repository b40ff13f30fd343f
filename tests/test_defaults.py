"""Choices of conf/ and the Python defaults of their classes: one canonical choice a class, aliases for other names.

No choice is named here. A choice is an alias if it has no `_target_` of its own.
"""

import functools
import re

import pytest
import torch
from configurations import CONF, build, complete, names
from omegaconf import OmegaConf

GROUPS = ("sampler", "spacing", "threshold", "schedule")


def text_of(group, name):
    return (CONF / group / f"{name}.yaml").read_text()


def file_of(group, name):
    return OmegaConf.to_container(OmegaConf.create(text_of(group, name)))


ALIASES = [(group, name) for group in GROUPS for name in names(group) if "_target_" not in file_of(group, name)]
CHOICES = [(group, name) for group in GROUPS for name in complete(group) if (group, name) not in ALIASES]


@functools.cache
def made(group, name):
    torch.manual_seed(0)
    return build(group, name)


def by_default(kind):
    torch.manual_seed(0)
    return kind()


def same(a, b):
    """Whether two objects are of one type and have equal parts."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return same(vars(a), vars(b)) if type(a).__module__.startswith("denoiselab.") else a == b


@pytest.mark.parametrize("group", GROUPS)
def test_every_class_built_without_options_is_exactly_one_choice(group):
    choices = [choice for choice in CHOICES if choice[0] == group]
    for kind in {type(made(*choice)) for choice in choices}:
        default = by_default(kind)
        found = [choice for choice in choices if same(made(*choice), default)]
        assert len(found) == 1, (kind, found)


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_a_choice_without_options_of_its_own_is_its_class_built_without_options(group, name):
    """Apart from the parts that its defaults list chooses."""
    file = file_of(group, name)
    if file.keys() <= {"_target_", "defaults"}:
        chosen, default = made(group, name), by_default(type(made(group, name)))
        parts = {key.partition("@")[2] for entry in file.get("defaults", ()) if entry != "_self_" for key in entry}
        kept = vars(chosen).keys() - parts
        assert kept == vars(default).keys() - parts
        assert all(same(vars(chosen)[key], vars(default)[key]) for key in kept)


@pytest.mark.parametrize("group", GROUPS)
def test_two_choices_of_one_object_are_aliases(group):
    kept = []
    for choice in CHOICES:
        if choice[0] == group:
            chosen = made(*choice)
            assert not [other for other, one in kept if same(one, chosen)], choice
            kept.append((choice, chosen))


@pytest.mark.parametrize(("group", "name"), ALIASES)
def test_an_alias_names_the_choice_that_it_is(group, name):
    (other,) = file_of(group, name)["defaults"]
    assert re.match(rf"# Alias of {other}\b", text_of(group, name))
    assert (group, other) in CHOICES
    assert same(made(group, name), made(group, other))


def test_choices_that_differ_are_told_apart():
    ddim = made("sampler", "ddim")
    assert same(ddim, made("sampler", "ddim"))
    for other in (made("sampler", "euler"), build("sampler", "ddim", "spacing.to_clean=false")):
        assert not same(ddim, other)

"""Which encoders there are."""

from __future__ import annotations

import pytest
import timm

from pixelwise.errors import UsageError
from pixelwise.models.catalogue import encoder_facts, encoders_like, families
from pixelwise.models.encoders import DILATED_FAMILIES, build_encoder


def test_families_hold_every_network_once():
    found = families()
    assert sum(family.networks for family in found) == len(timm.list_models())
    assert sum(family.pretrained for family in found) == len(timm.list_models(pretrained=True, include_tags=False))
    assert {family.name for family in found if family.dilates_to} == set(DILATED_FAMILIES) & {f.name for f in found}
    assert all(family.example in timm.list_models(module=family.name) for family in found)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("vgg16", ["vgg16"]),
        ("vgg1[13]", ["vgg11", "vgg13"]),
        ("vgg16*", ["vgg16", "vgg16_bn"]),
        ("next_atto", ["convnext_atto", "convnext_atto_ols", "convnext_atto_rms", "inception_next_atto"]),
        ("resnet18.tv_in1k", ["resnet18.tv_in1k"]),
        ("resnet18(act_layer=silu)", ["resnet18(act_layer=silu)"]),
    ],
)
def test_names_by_pattern(pattern: str, found: list[str]):
    assert encoders_like(pattern) == found


def test_a_pattern_that_finds_nothing_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'resnet18'"):
        encoders_like("resnet81")
    with pytest.raises(UsageError, match="is not the name of an encoder"):
        encoders_like("resnet[")


def test_facts_are_those_of_the_encoder_itself():
    facts = encoder_facts("test_resnet")
    encoder = build_encoder("test_resnet", 3)
    assert (facts.channels, facts.strides) == (encoder.channels, encoder.strides)
    assert facts.parameters == sum(p.numel() for p in encoder.parameters())
    assert facts.dilates_to == (8, 16)
    assert facts.licences == {"test_resnet.r160_in1k": "apache-2.0"}


def test_the_default_weights_come_first():
    default = timm.get_pretrained_cfg("resnet50").tag
    facts = encoder_facts("resnet50")
    assert next(iter(facts.licences)) == f"resnet50.{default}"
    assert len(facts.licences) == len(timm.list_pretrained("resnet50.*")) > 5
    assert list(encoder_facts("resnet18.tv_in1k").licences) == ["resnet18.tv_in1k"]
    assert encoder_facts("convnext_atto_rms").licences == {}


def test_what_cannot_be_an_encoder_has_no_facts():
    with pytest.raises(UsageError, match="coat_tiny cannot be an encoder"):
        encoder_facts("coat_tiny")

"""Which encoders there are: the networks of timm by family and by name, their maps, the licences of their weights."""

from __future__ import annotations

from dataclasses import dataclass

import timm
from timm.models import is_model_pretrained

from pixelwise.models.encoders import DILATED_FAMILIES, DILATED_STRIDES, dilates, parse_encoder, plan_encoder
from pixelwise.models.pretrained import weights_licence


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Networks of one kind, a module of timm.

    networks    how many there are
    pretrained  how many of them have weights
    dilates_to  output strides that dilation can give, besides the network's own
    example     the network with the shortest name
    """

    name: str
    networks: int
    pretrained: int
    dilates_to: tuple[int, ...]
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFacts:
    """One encoder for images of three channels.

    parameters  learnable ones
    dilates_to  as of its family
    licences    of its weights, by their names, timm's default first
    """

    name: str
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    parameters: int
    dilates_to: tuple[int, ...]
    licences: dict[str, str]


def families() -> list[Family]:
    """All families, by name.

    >>> [family.dilates_to for family in families() if family.name in ("resnet", "vgg")]
    [(8, 16), ()]
    """
    return [_family(name, networks) for name in timm.list_modules() if (networks := timm.list_models(module=name))]


def encoders_like(pattern: str) -> list[str]:
    """The names that match: an encoder's own name, a pattern such as "resnet*", or all that contain the text.

    Raises UsageError, naming the nearest, where there is none.

    >>> encoders_like("resnet18"), encoders_like("vgg*_bn")
    (['resnet18'], ['vgg11_bn', 'vgg13_bn', 'vgg16_bn', 'vgg19_bn'])
    """
    found = [] if timm.is_model(pattern) else timm.list_models(pattern) or timm.list_models(f"*{pattern}*")
    if not found:
        parse_encoder(pattern)  # says what is wrong with it
    return found or [pattern]


def encoder_facts(name: str) -> EncoderFacts:
    """What can be known of an encoder without memory for its weights; raises UsageError where it cannot be one.

    >>> facts = encoder_facts("resnet18")
    >>> facts.parameters, facts.strides, facts.licences["resnet18.a1_in1k"]
    (11176512, (2, 4, 8, 16, 32), 'apache-2.0')
    """
    plan = plan_encoder(name, 3)
    timm_name, _ = parse_encoder(name)
    architecture, _, tag = timm_name.partition(".")
    tagged = [timm_name] if tag else timm.list_pretrained(f"{architecture}.*")
    config = timm.get_pretrained_cfg(timm_name)
    tagged.sort(key=lambda one: config is None or one.partition(".")[2] != config.tag)
    return EncoderFacts(
        name=name,
        channels=plan.channels,
        strides=plan.fit.strides,
        parameters=plan.parameters,
        dilates_to=DILATED_STRIDES if dilates(architecture) else (),
        licences={one: weights_licence(one) for one in tagged},
    )


def _family(name: str, networks: list[str]) -> Family:
    return Family(
        name=name,
        networks=len(networks),
        pretrained=sum(is_model_pretrained(network) for network in networks),
        dilates_to=DILATED_STRIDES if name in DILATED_FAMILIES else (),
        example=min(networks, key=len),
    )

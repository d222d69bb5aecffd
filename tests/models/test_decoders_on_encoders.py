"""Every decoder that takes an encoder, on one network of every family: shapes on the meta device."""

from __future__ import annotations

import pytest
import torch

from pixelwise.models.registry import MODELS, build_model, model_options

ENCODERS = (
    *("vgg11_bn", "resnet18", "densenet121", "inception_v3", "inception_v4", "xception41", "efficientnet_b0"),
    *("convnext_atto", "swin_tiny_patch4_window7_224", "mobilenetv3_small_050"),
)
DECODERS = [name for name in MODELS if "encoder" in model_options(name)]


def test_the_decoders_are_those_that_are_meant():
    assert set(DECODERS) == {
        *("deeplabv2", "deeplabv3", "deeplabv3plus", "dynamic_unet", "fpn", "hypercolumns", "pspnet", "unet_encoder")
    }


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_decoder_gives_logits_of_the_size_of_the_image(decoder, encoder):
    options = {"encoder": encoder} | ({"output_stride": 32} if "output_stride" in model_options(decoder) else {})
    with torch.device("meta"):
        network = build_model(decoder, in_channels=3, classes=5, options=options).eval()
        assert network(torch.empty(1, 3, 75, 130)).shape == (1, 5, 75, 130)
    assert network.encoder.timm_name == encoder

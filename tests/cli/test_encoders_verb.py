"""`pixelwise encoders`, as a user types it."""

from __future__ import annotations

import json

import pytest
import timm

from pixelwise.cli.encoders import MEASURED
from pixelwise.cli.main import main


def command(*arguments: str) -> int:
    """The exit code of a command, run in this process."""
    with pytest.raises(SystemExit) as leaving:
        main(list(arguments))
    return int(leaving.value.code or 0)


def test_without_a_pattern_the_families_are_listed(capsys: pytest.CaptureFixture[str]):
    assert command("encoders") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["family", "networks", "with", "weights", "dilates", "to", "for", "example"]
    (resnet,) = [line.split() for line in lines if line.startswith("resnet ")]
    assert resnet[0] == "resnet"
    assert resnet[1] == str(len(timm.list_models(module="resnet")))
    assert resnet[3:5] == ["8", "16"]
    assert lines[-1].startswith(f"{len(timm.list_models())} networks in ")
    assert max(map(len, lines)) <= 110


def test_one_encoder_is_shown_with_its_maps_and_all_its_weights(capsys: pytest.CaptureFixture[str]):
    assert command("encoders", "resnet18") == 0
    shown = capsys.readouterr().out
    assert "11.2" in shown
    assert "2 4 8 16 32" in shown
    assert "64 64 128 256 512" in shown
    assert "resnet18.fb_ssl_yfcc100m_ft_in1k  cc-by-nc-4.0 (not for commercial use)" in shown
    assert shown.index("resnet18.a1_in1k") < shown.index("resnet18.a2_in1k")


def test_a_network_without_weights_says_so(capsys: pytest.CaptureFixture[str]):
    assert command("encoders", "convnext_atto_rms") == 0
    assert "timm has no pretrained weights of it" in capsys.readouterr().out


def test_of_many_some_are_measured_and_all_are_named(capsys: pytest.CaptureFixture[str]):
    assert command("encoders", "test_*") == 0
    shown = capsys.readouterr()
    names = timm.list_models("test_*")
    assert all(name in shown.out for name in names)
    assert f"and {len(names) - MEASURED} more" in shown.out
    assert "test_coatnet cannot be an encoder" in shown.out
    assert "pretrained weights, the first" not in shown.out


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str]):
    assert command("encoders", "--json") == 0
    families = json.loads(capsys.readouterr().out)["families"]
    assert {"name": "vgg", "networks": 8, "pretrained": 8, "dilates_to": [], "example": "vgg11"} in families

    assert command("encoders", "test_*", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    byobnet = shown["encoders"][0]
    assert byobnet["name"] == "test_byobnet"
    assert byobnet["strides"] == [2, 4, 8, 16, 32]
    assert byobnet["licences"] == {"test_byobnet.r160_in1k": "apache-2.0"}
    assert list(shown["refused"]) == ["test_coatnet"]
    names = {one["name"] for one in shown["encoders"]} | set(shown["refused"]) | set(shown["not_measured"])
    assert names == set(timm.list_models("test_*"))


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("resnet81", "did you mean 'resnet18'"),
        ("coat_tiny", "coat_tiny cannot be an encoder of images of any size"),
        ("resnet18(checkpoint_path=x)", "leave it out"),
    ],
)
def test_what_is_none_is_one_message(pattern: str, said: str, capsys: pytest.CaptureFixture[str]):
    assert command("encoders", pattern) == 1
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""

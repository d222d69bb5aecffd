"""Pretrained weights: real ones, every way in which a file or the network can fail, and whose they are."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from pixelwise.errors import UsageError
from pixelwise.models.encoders import build_encoder
from pixelwise.models.pretrained import (
    LoadedWeights,
    is_non_commercial,
    load_pretrained,
    pretrained_statistics,
    weights_licence,
)
from pixelwise.models.vgg import VGGStages

SMALL = "test_efficientnet"
NEXT_STEP = r"model\.encoder_weights=FILE\.safetensors, or model\.encoder_weights=none"


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """The tensors of a small classifier, as timm publishes them."""
    torch.manual_seed(5)
    return {key: tensor.clone() for key, tensor in timm.create_model(SMALL).state_dict().items()}


@pytest.fixture
def weights(tmp_path: Path, published: dict[str, Tensor]) -> Path:
    save_file(published, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def values(module: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in module.state_dict().items()}


# Files


def test_real_weights_give_the_features_of_the_network_that_they_come_from(real_data: Path):
    path = real_data / "weights" / "mobilenetv1_100_keras_imagenet_minus_pw13.safetensors"
    encoder = build_encoder("mobilenetv1_100(pad_type=same, bn_eps=1e-3)", 3).eval()
    found = load_pretrained(encoder, path)
    assert found.missing == ("blocks.4.1.conv_pw.weight",)
    assert (len(found.loaded), found.unused) == (134, ())

    theirs = timm.create_model("mobilenetv1_100", features_only=True, pad_type="same", bn_eps=1e-3).eval()
    theirs.load_state_dict(load_file(path), strict=False)
    image = torch.rand(1, 3, 224, 224) * 2 - 1
    with torch.inference_mode():
        for ours, expected in zip(encoder(image)[:4], theirs(image)[:4], strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_every_tensor_is_loaded_and_the_classifier_is_left_over(weights: Path, published: dict[str, Tensor]):
    encoder = build_encoder(SMALL, 3)
    found = load_pretrained(encoder, weights)
    assert found.missing == ()
    assert {"classifier.weight", "classifier.bias"} <= set(found.unused)
    assert set(found.loaded) | set(found.unused) == {k for k, t in published.items() if t.is_floating_point()}
    for key, tensor in encoder.network.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, published[key])


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_convnext", "vgg11_bn", "densenet121", "hrnet_w18_small"]
)
def test_the_names_of_timm_are_found_however_a_network_is_wrapped(name: str, tmp_path: Path):
    with torch.device("meta"):
        encoder = build_encoder(name, 3)
        whole = timm.create_model(name).state_dict()
    small = {key: torch.zeros(t.shape, dtype=torch.half) for key, t in whole.items() if t.numel() < 4_000_000}
    save_file(small, tmp_path / "whole.safetensors")
    found = load_pretrained(encoder, tmp_path / "whole.safetensors")
    assert found.missing == ()
    assert len(set(found.loaded)) == sum(tensor.is_floating_point() for tensor in encoder.state_dict().values())


def test_an_encoder_of_ones_own_is_filled_in_the_order_of_its_layers(tmp_path: Path):
    torch.manual_seed(0)
    vgg = timm.create_model("vgg11", features_only=True)
    named = {key.replace("features_", "features."): tensor for key, tensor in vgg.state_dict().items()}
    save_file({**named, "head.fc.bias": torch.zeros(1000)}, tmp_path / "vgg11.safetensors")
    stages = VGGStages(3, layers=11)
    found = load_pretrained(stages, tmp_path / "vgg11.safetensors")
    assert (len(found.loaded), found.missing, found.unused) == (16, (), ("head.fc.bias",))
    convolutions = [layer for layer in vgg.modules() if isinstance(layer, nn.Conv2d)]
    own = [layer for layer in stages.modules() if isinstance(layer, nn.Conv2d)]
    assert all(
        torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias) for a, b in zip(own, convolutions, strict=True)
    )
    with pytest.raises(UsageError, match=r"features.0.bias is \(64,\) and should be \(8,\)"):
        load_pretrained(VGGStages(3, layers=11, width=8), tmp_path / "vgg11.safetensors")


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_first_convolution_is_adapted_to_the_channels_of_the_images(
    channels: int, weights: Path, published: dict[str, Tensor]
):
    encoder = build_encoder(SMALL, channels)
    assert load_pretrained(encoder, weights).missing == ()
    first = encoder.network.get_parameter("conv_stem.weight")
    assert first.shape[1] == channels
    theirs = published["conv_stem.weight"]
    over_and_over = theirs.repeat(1, 2, 1, 1)[:, :channels] * 3 / channels
    torch.testing.assert_close(first, theirs.sum(dim=1, keepdim=True) if channels == 1 else over_and_over)


def test_half_precision_is_widened_and_other_names_stay_as_they_were(tmp_path: Path, published: dict[str, Tensor]):
    kept = "blocks.0.0.conv.weight"
    assert kept in published
    half = {
        key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in published.items() if key != kept
    }
    save_file(half, tmp_path / "half.safetensors")
    encoder = build_encoder(SMALL, 3)
    before = values(encoder.network)
    found = load_pretrained(encoder, tmp_path / "half.safetensors")
    after = encoder.network.state_dict()
    assert found.missing == (kept,)
    assert torch.equal(after[kept], before[kept])
    assert after["conv_stem.weight"].dtype == torch.float32
    torch.testing.assert_close(after["conv_stem.weight"], published["conv_stem.weight"], atol=1e-3, rtol=1e-3)
    assert str(found) == (
        f"{len(found.loaded)} of {len(found.loaded) + 1} tensors loaded; 1 keep their random start: {kept}; "
        f"{len(found.unused)} of the file unused: {', '.join(found.unused[:3])} and {len(found.unused) - 3} more"
    )


def refused(path: Path, said: str, *, channels: int = 3) -> None:
    """The file is refused, the refusal says so and what to do, and the encoder is as it was."""
    encoder = build_encoder(SMALL, channels)
    before = values(encoder)
    with pytest.raises(UsageError, match=said) as refusal:
        load_pretrained(encoder, path)
    assert path.name in str(refusal.value)
    assert "model.encoder_weights=none" in str(refusal.value)
    assert all(torch.equal(before[key], tensor) for key, tensor in encoder.state_dict().items())


def test_weights_of_another_network_are_refused(tmp_path: Path, published: dict[str, Tensor]):
    save_file(values(build_encoder("test_resnet", 3).network), tmp_path / "other.safetensors")
    refused(
        tmp_path / "other.safetensors",
        rf"does not hold the weights of {SMALL}: it holds \d of .*lacks conv_stem.weight",
    )
    few = dict(list(published.items())[:10])
    save_file(few, tmp_path / "few.safetensors")
    refused(tmp_path / "few.safetensors", "tensors and lacks .* more")


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("blocks.0.0.conv.weight", lambda t: t[:-1], r"blocks.0.0.conv.weight is \(15, .* and should be \(16, "),
        ("conv_stem.weight", lambda t: t[:, :2], r"conv_stem.weight is .* and should be"),
        ("bn1.running_var", lambda t: t * torch.nan, "bn1.running_var holds NaN or infinity"),
        ("bn1.weight", lambda t: t * torch.inf, "bn1.weight holds NaN or infinity"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    key: str, change: Callable[[Tensor], Tensor], said: str, tmp_path: Path, published: dict[str, Tensor]
):
    save_file({**published, key: change(published[key]).contiguous()}, tmp_path / "wrong.safetensors")
    refused(tmp_path / "wrong.safetensors", f"does not fit {SMALL}: {said}")


def test_files_that_are_no_safetensors_are_refused(tmp_path: Path, weights: Path, published: dict[str, Tensor]):
    refused(tmp_path / "nowhere.safetensors", "No such file")
    refused(tmp_path, "Is a directory")
    torch.save(published, tmp_path / "pickle.safetensors")
    refused(tmp_path / "pickle.safetensors", "which can run code when opened")
    (tmp_path / "text.safetensors").write_text("weights")
    refused(tmp_path / "text.safetensors", "not a whole safetensors file")
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:-100])
    refused(tmp_path / "cut.safetensors", "not a whole safetensors file")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    refused(tmp_path / "empty.safetensors", "not a whole safetensors file")


def test_an_encoder_without_weights_of_timm_says_so(weights: Path):
    own = nn.Conv2d(3, 3, 1)
    own.timm_name = ""
    with pytest.raises(UsageError, match=f"no pretrained weights that fit.*{NEXT_STEP}"):
        load_pretrained(own, weights)
    with pytest.raises(UsageError, match=f"timm has no pretrained weights of convnext_atto_rms; .*{NEXT_STEP}"):
        load_pretrained(build_encoder("convnext_atto_rms", 3), "imagenet")
    with pytest.raises(UsageError, match=f"only as a pickle.*{NEXT_STEP}"):
        load_pretrained(build_encoder("legacy_seresnet18", 3), "imagenet")


# The network


class Hub(ThreadingHTTPServer):
    """A server of weights on this machine. `fault` says what goes wrong."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.content = content
        self.fault = ""
        self.asked: list[str] = []
        self.released = threading.Event()


class HubHandler(BaseHTTPRequestHandler):
    """Answers as a hub does: size and checksum first, then the file."""

    server: Hub

    def do_HEAD(self) -> None:
        self._answer(send=False)

    def do_GET(self) -> None:
        self._answer(send=True)

    def _answer(self, *, send: bool) -> None:
        hub = self.server
        hub.asked.append(f"{self.command} {self.path}")
        if hub.fault == "silent":
            hub.released.wait(20)
            return
        if "/resolve/" not in self.path or hub.fault in ("404", "500"):
            self.send_error(int(hub.fault or 404))
            return
        content = hub.content
        if send and hub.fault == "truncated":
            content = content[: len(content) // 2]
        if hub.fault == "damaged":
            content = content[:-4] + b"\0\0\0\1"
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(hub.content).hexdigest()}"')
        self.end_headers()
        if send:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def hub(published: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the library takes for the real one, and an empty cache."""
    with Hub(save(published)) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        use_endpoint(monkeypatch, f"http://127.0.0.1:{server.server_port}", tmp_path / "cache")
        yield server
        server.released.set()
        server.shutdown()


def use_endpoint(monkeypatch: pytest.MonkeyPatch, address: str, cache: Path) -> None:
    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_published_weights_are_fetched_once_and_then_found_without_asking(hub: Hub, published: dict[str, Tensor]):
    encoder = build_encoder(SMALL, 3)
    assert load_pretrained(encoder, "imagenet").missing == ()
    assert torch.equal(encoder.network.get_parameter("conv_stem.weight"), published["conv_stem.weight"])
    assert "GET /timm/test_efficientnet.r160_in1k/resolve/main/model.safetensors" in hub.asked
    assert {line.rpartition("/")[2] for line in hub.asked if "/resolve/" in line} == {"model.safetensors"}
    hub.asked.clear()
    hub.fault = "500"
    again = build_encoder(SMALL, 3)
    load_pretrained(again, "imagenet")
    assert not [line for line in hub.asked if "/resolve/" in line]
    assert torch.equal(again.network.get_parameter("bn1.weight"), published["bn1.weight"])


@pytest.mark.parametrize("fault", ["404", "500", "silent", "truncated", "damaged"])
def test_a_hub_that_fails_is_one_sentence_within_seconds_and_leaves_the_encoder_alone(hub: Hub, fault: str):
    hub.fault = fault
    encoder = build_encoder(SMALL, 3)
    before = values(encoder)
    start = time.monotonic()
    with pytest.raises(UsageError) as refusal:
        load_pretrained(encoder, "imagenet")
    assert time.monotonic() - start < 5
    said = str(refusal.value)
    assert "\n" not in said
    if fault == "damaged":
        assert "its checksum does not fit; delete it and run again" in said
    else:
        assert f"the pretrained weights of {SMALL} are not on this machine and cannot be fetched (" in said
        assert hub.asked[0] == "HEAD /timm/test_efficientnet.r160_in1k/resolve/main/model.safetensors"
        assert said.endswith("choose model.encoder_weights=FILE.safetensors, or model.encoder_weights=none")
    assert all(torch.equal(before[key], tensor) for key, tensor in encoder.state_dict().items())


def test_without_a_route_it_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    use_endpoint(monkeypatch, f"http://127.0.0.1:{port}", tmp_path)
    start = time.monotonic()
    with pytest.raises(UsageError, match=rf"cannot be fetched \(.*refused.*\); choose {NEXT_STEP}"):
        load_pretrained(build_encoder(SMALL, 3), "imagenet")
    assert time.monotonic() - start < 3


def test_weights_that_were_damaged_on_the_disk_are_not_loaded(hub: Hub):
    load_pretrained(build_encoder(SMALL, 3), "imagenet")
    path = Path(str(huggingface_hub.try_to_load_from_cache("timm/test_efficientnet.r160_in1k", "model.safetensors")))
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is damaged: its checksum does not fit; delete it"):
        load_pretrained(build_encoder(SMALL, 3), "imagenet")


# Whose they are


def test_statistics_are_those_that_the_weights_expect():
    assert pretrained_statistics("mobilenetv1_100(pad_type=same)") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert pretrained_statistics("vgg16") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with pytest.raises(UsageError, match="no pretrained weights"):
        pretrained_statistics("convnext_atto_rms")
    with pytest.raises(UsageError, match="did you mean"):
        pretrained_statistics("resnet81")


def test_licences_are_those_that_timm_states():
    assert weights_licence("resnet18") == "apache-2.0"
    assert weights_licence("resnet18.tv_in1k") == "bsd-3-clause"
    assert weights_licence("resnet18.fb_ssl_yfcc100m_ft_in1k") == "cc-by-nc-4.0"
    assert weights_licence("csatv2") == "unknown"
    assert weights_licence("convnext_atto_rms") == ""


@pytest.mark.parametrize(
    "licence", ["cc-by-nc-4.0", "cc-by-nc-sa-4.0", "fair-noncommercial-research-license", "apple-amlr", "seer-license"]
)
def test_non_commercial_licences_are_recognised(licence: str):
    assert is_non_commercial(licence)


@pytest.mark.parametrize(
    "licence", ["apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "nvidia-open-model-license", "unknown", ""]
)
def test_other_licences_are_not_taken_for_them(licence: str):
    assert not is_non_commercial(licence)


def test_what_was_loaded_is_said_in_one_line():
    assert str(LoadedWeights(loaded=("a", "b"), missing=(), unused=())) == "2 of 2 tensors loaded"

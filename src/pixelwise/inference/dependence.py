"""Which inputs an output of a network depends on: the network is run with parts whose derivatives cannot vanish.

While `Dependence` is active, every function of torch on the way from the image to the logits is replaced by one that
looks at the same places and has a positive derivative there: convolutions have positive weights, the same for all
channels, the maximum becomes a sum, activations let everything through. Nothing cancels then, so that a gradient is
zero only where there is no dependence at all. What is not replaced (slices, sums, interpolations) runs as it is.

Weights are stood in for by expanded scalars: a network on the meta device is enough, and its size costs no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

Kernel = Callable[[Sequence[int]], Tensor]

# Functions that change each value by itself, or all channels of one place, and so look nowhere else.
KEPT = (
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish"),
    *("hardtanh", "softplus", "clamp", "batch_norm"),
)
GATES = ("sigmoid", "hardsigmoid", "tanh", "exp")
SHARES = ("softmax", "normalize")
PER_CHANNEL: dict[str, Callable[..., Any]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "interpolate": F.interpolate,
    "avg_pool2d": F.avg_pool2d,
    "adaptive_avg_pool2d": F.adaptive_avg_pool2d,
}

IN_PLACE = ("add_", "sub_", "mul_", "div_")

# Arguments behind the input (and the weight), in their order.
OF_CONVOLUTION = ("bias", "stride", "padding", "dilation", "groups")
OF_TRANSPOSED = ("bias", "stride", "padding", "output_padding", "groups", "dilation")
OF_POOLING = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")

ALL_CHANNELS = ((...,), (slice(None), slice(None)))


def dependent_outputs(
    network: nn.Module, image_BCHW: Tensor, *, kernel: Kernel, layers: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The outputs of the `layers` and, under the empty name, of the network, as they depend on the image.

    `kernel` makes the positive filters of all convolutions from their height and width. Of a layer that gives several
    maps, the last is taken. The network may lie on the meta device, and is left as it was.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_layer: nn.Module, _inputs: Any, output: Any) -> None:
            outputs[name] = last_map(output)

        return hook

    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        with evaluating(network), Dependence(kernel):
            outputs[""] = torch.func.functional_call(network, _stand_ins(network), (image_BCHW,))
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def last_map(output: Any) -> Tensor:
    """What a layer gave, or the last of the tensors that it gave.

    >>> last_map((torch.zeros(1), torch.ones(2), None)).tolist()
    [1.0, 1.0]
    """
    return output if isinstance(output, Tensor) else [one for one in output if isinstance(one, Tensor)][-1]


def positive_kernel(size: Sequence[int]) -> Tensor:
    """A filter of values between 0.5 and 1.5, the same for each size: different enough for nothing to cancel.

    >>> bool((positive_kernel((3, 3)) >= 0.5).all())
    True
    """
    generator = torch.Generator().manual_seed(0)
    return torch.rand(tuple(size), generator=generator, dtype=torch.float64, device="cpu") + 0.5


def unit_kernel(size: Sequence[int]) -> Tensor:
    """A filter of ones, which counts.

    >>> unit_kernel((1, 2)).tolist()
    [[1.0, 1.0]]
    """
    return torch.ones(tuple(size), dtype=torch.float64, device="cpu")


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Within it the network evaluates: no dropout, norms by their running statistics; afterwards it is as before."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch computes with one thread: for small tensors, more of them only get in each other's way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Dependence(TorchFunctionMode):
    """Replaces the functions of torch by positive ones that look at the same places.

    The channels of a convolution come out equal: one of them is kept beside the map, and computed with in its place.
    """

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self._kernel = kernel
        self._single: MutableMapping[Tensor, Tensor] = WeakTensorKeyDictionary()
        self._unpoolings: dict[int, tuple[Tensor, Callable[[Tensor], Tensor]]] = {}
        self._replaced: dict[str, Callable[..., Any]] = {
            **dict.fromkeys(GATES, _between_0_and_1),
            **dict.fromkeys(SHARES, _share),
            **{name: self._per_channel(function) for name, function in PER_CHANNEL.items()},
            "conv2d": self._convolution,
            "conv_transpose2d": self._transposed_convolution,
            "linear": _linear,
            "scaled_dot_product_attention": _attention,
            "multi_head_attention_forward": _many_headed,
            "max_pool2d": self._pooling,
            "max_pool2d_with_indices": self._pooling_with_indices,
            "scatter": self._unpooling,
            "adaptive_max_pool2d": _adaptive_mean,
            "amax": torch.mean,
            "instance_norm": _with_mean,
            "group_norm": _with_mean,
            "layer_norm": _layer_norm,
            "cat": self._joining,
            "__getitem__": self._cropping,
            "pixel_shuffle": self._shuffling,
            "view": torch.Tensor.reshape,
        }

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the replacement of a function, if what it is given comes from the image."""
        named, name = kwargs or {}, func.__name__
        if not any(tensor.requires_grad for tensor in _tensors(args)):
            return func(*args, **named)
        if name.removesuffix("_") in KEPT:
            return args[0]
        if name in IN_PLACE and args[0] in self._single:
            return self._changed(args[0], self._replaced[name.removesuffix("_")](*args, **named))
        return self._replaced.get(name, func)(*args, **named)

    def _changed(self, feature: Tensor, result: Tensor) -> Tensor:
        """A map of equal channels has no memory to be changed in place: from now on the result stands for it."""
        self._single[feature] = self._mean(result)
        return result

    def _repeated(self, single_B1HW: Tensor, channels: int) -> Tensor:
        """A map of many equal channels."""
        feature = single_B1HW.expand(*single_B1HW.shape[:-3], channels, -1, -1)
        self._single[feature] = single_B1HW
        return feature

    def _mean(self, feature: Tensor) -> Tensor:
        """The mean of the channels of a map."""
        single: Tensor | None = self._single.get(feature)
        return feature.mean(-3, keepdim=True) if single is None else single

    def _convolution(self, feature: Tensor, weight: Tensor, *rest: Any, **named: Any) -> Tensor:
        geometry = _by_name(OF_CONVOLUTION, rest, named, without=("bias", "groups"))
        single = torch.conv2d(self._mean(feature), self._filter(weight.shape[2:]), **geometry)
        return self._repeated(single, weight.shape[0])

    def _transposed_convolution(self, feature: Tensor, weight: Tensor, *rest: Any, **named: Any) -> Tensor:
        geometry = _by_name(OF_TRANSPOSED, rest, named, without=("bias",))
        groups = geometry.pop("groups", 1)
        single = torch.conv_transpose2d(self._mean(feature), self._filter(weight.shape[2:]), **geometry)
        return self._repeated(single, weight.shape[1] * groups)

    def _filter(self, size: Sequence[int]) -> Tensor:
        """A filter from one channel to one."""
        return self._kernel(size)[None, None]

    def _pooling(self, feature: Tensor, *geometry: Any, return_indices: bool = False, **named: Any) -> Any:
        pooled, indices = self._pooling_with_indices(feature, *geometry, **named)
        return (pooled, indices) if return_indices else pooled

    def _pooling_with_indices(self, feature: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, Tensor]:
        """The sum of each window in place of the maximum; the last windows may go on after the end of the map."""
        geometry = _by_name(OF_POOLING, rest, named, without=("return_indices",))
        window = _pair(geometry["kernel_size"])
        step, single = _pair(geometry.get("stride") or window), self._mean(feature)
        with torch.no_grad():
            _, indices = F.max_pool2d_with_indices(single, **geometry)
        rows, columns = indices.shape[-2:]
        spread_out = {name: geometry[name] for name in ("padding", "dilation") if name in geometry}
        longer = F.pad(single, (0, step[1], 0, step[0]))
        sums = torch.conv2d(longer, self._filter(window), stride=step, **spread_out)

        def everywhere(values: Tensor) -> Tensor:
            """The value of each window at all its places: the maximum might be found at any of them."""
            height, width = feature.shape[-2:]
            spread = F.interpolate(values, scale_factor=[float(factor) for factor in step], mode="nearest")
            return F.pad(spread, (0, width - spread.shape[-1], 0, height - spread.shape[-2]))

        indices = indices.expand(*feature.shape[:-2], -1, -1)
        self._unpoolings[indices.untyped_storage().data_ptr()] = indices, everywhere
        return self._repeated(sums[..., :rows, :columns], feature.shape[-3]), indices

    def _unpooling(self, empty: Tensor, dim: int, index: Tensor, values: Any) -> Tensor:
        """Values put back where a pooling found its maxima; any other scattering as it is."""
        known = self._unpoolings.get(index.untyped_storage().data_ptr())
        if known is None:
            return torch.scatter(empty, dim, index, values)
        indices, everywhere = known
        values_BCN = values.movedim(dim, 2)
        return everywhere(values_BCN.unflatten(2, indices.shape[-2:])).flatten(2).movedim(2, dim)

    def _per_channel(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A function that treats all channels alike, computed for one of them where they are equal."""

        def run(*args: Any, **named: Any) -> Tensor:
            if any(tensor not in self._single for tensor in _tensors(args)):
                return function(*args, **named)
            singles = [self._single[value] if isinstance(value, Tensor) else value for value in args]
            return self._repeated(function(*singles, **named), max(tensor.shape[-3] for tensor in _tensors(args)))

        return run

    def _joining(self, features: Sequence[Tensor], dim: int = 0) -> Tensor:
        """Maps joined by their channels; all channels then come out as their mean."""
        if dim != 1 or any(feature not in self._single for feature in features):
            return torch.cat(tuple(features), dim)
        total = torch.stack([self._single[feature] for feature in features]).sum(0)
        return self._repeated(total, sum(feature.shape[1] for feature in features))

    def _cropping(self, feature: Tensor, index: Any) -> Tensor:
        """A part of the rows and columns, or of anything else."""
        if feature not in self._single or not isinstance(index, tuple) or index[:-2] not in ALL_CHANNELS:
            return feature[index]
        return self._repeated(self._single[feature][index], feature.shape[1])

    def _shuffling(self, feature: Tensor, factor: int) -> Tensor:
        """Channels laid out in space: of equal channels, each value becomes a block of itself."""
        block = F.interpolate(self._mean(feature), scale_factor=float(factor), mode="nearest")
        return self._repeated(block, feature.shape[-3] // factor**2)


def _stand_ins(network: nn.Module) -> dict[str, Tensor]:
    """For every parameter and buffer a tensor of its shape without memory of its own: ones, and zeros for integers."""
    one, zero = torch.ones((), dtype=torch.float64, device="cpu"), torch.zeros((), device="cpu")
    return {
        name: (one if tensor.is_floating_point() else zero.to(tensor.dtype)).expand(tensor.shape)
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]
    }


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    """The tensors among the arguments of a function, and in the list that is its first."""
    first = args[0] if args and isinstance(args[0], list | tuple) else ()
    return [value for value in (*args, *first) if isinstance(value, Tensor)]


def _by_name(
    names: Sequence[str], rest: Sequence[Any], named: dict[str, Any], *, without: Sequence[str]
) -> dict[str, Any]:
    """The arguments of a function, given by place or by name, without some."""
    given = dict(zip(names, rest, strict=False)) | named
    return {name: value for name, value in given.items() if name not in without}


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))


def _between_0_and_1(feature: Tensor, *_rest: Any, **_named: Any) -> Tensor:
    """What multiplies other maps must neither saturate nor let the values grow without end."""
    return feature / feature.detach().abs().amax()


def _share(feature: Tensor, *_rest: Any, dim: int = -1, **_named: Any) -> Tensor:
    """The share of each value in the sum over `dim`."""
    return feature / feature.detach().abs().sum(dim, keepdim=True)


def _adaptive_mean(feature: Tensor, output_size: Any, **_named: Any) -> Tensor:
    return F.adaptive_avg_pool2d(feature, output_size)


def _with_mean(feature: Tensor, *_rest: Any, **_named: Any) -> Tensor:
    """Norms by statistics of the whole map depend on the whole map."""
    return feature + feature.mean((-2, -1), keepdim=True)


def _layer_norm(feature: Tensor, normalized_shape: Sequence[int], *_rest: Any, **_named: Any) -> Tensor:
    """Over the channels of a place it looks nowhere else; over more dimensions it sees the whole map."""
    if len(normalized_shape) == 1:
        return feature
    return feature + feature.mean(tuple(range(-len(normalized_shape), 0)), keepdim=True)


def _linear(feature: Tensor, weight: Tensor, _bias: Tensor | None = None) -> Tensor:
    return feature.mean(-1, keepdim=True).expand(*feature.shape[:-1], weight.shape[0])


def _attention(query: Tensor, _key: Tensor, value: Tensor, *_rest: Any, **_named: Any) -> Tensor:
    """The mean of all values, and the query itself: the worst case of any attention and any mask."""
    return value.mean(-2, keepdim=True) + query.mean(-1, keepdim=True)


def _many_headed(query: Tensor, _key: Tensor, value: Tensor, *_rest: Any, **_named: Any) -> tuple[Tensor, None]:
    """Of tokens x batch x channels."""
    return value.mean(0, keepdim=True) + query.mean(-1, keepdim=True), None

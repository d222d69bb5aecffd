"""Arrays as bytes: they come back as they were, and the same arrays are the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from merging import new_merge
from safetensors import SafetensorError

from pixelwise.inference.parts import pack_arrays, unpack_arrays
from pixelwise.postprocess.instances import InstanceSettings

KINDS = st.sampled_from([np.uint8, np.int32, np.uint32, np.int64, np.uint64])


@given(
    held=st.dictionaries(
        st.sampled_from(["top", "regions", "pixels", "first"]),
        KINDS.flatmap(lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=1, max_dims=2, min_side=0))),
    )
)
@settings(max_examples=60, deadline=None)
def test_arrays_come_back_as_they_were(held):
    back = unpack_arrays(pack_arrays(held))
    assert back.keys() == held.keys()
    assert all(np.array_equal(back[name], held[name]) and back[name].dtype == held[name].dtype for name in held)
    assert pack_arrays(held) == pack_arrays(dict(reversed(held.items())))


def test_views_are_packed_as_they_look():
    whole = np.arange(12).reshape(3, 4)
    back = unpack_arrays(pack_arrays({"turned": whole.T, "column": whole[:, 1], "back": whole[::-1]}))
    assert back["turned"].tolist() == whole.T.tolist()
    assert back["column"].tolist() == [1, 5, 9]
    assert back["back"].tolist() == whole[::-1].tolist()


def test_large_maps_of_few_labels_become_small():
    assert len(pack_arrays({"objects": np.zeros((1000, 1000), np.uint32)})) < 2000


def test_a_pickle_is_not_opened():
    with pytest.raises((SafetensorError, TypeError)):
        pack_arrays({"objects": np.array([object()])})
    packed = pack_arrays({"numbers": np.arange(3)})
    for damaged in (packed[:-1], packed[:8], b"", b"\x80\x04" + packed):
        with pytest.raises((SafetensorError, RuntimeError, ValueError)):
            unpack_arrays(damaged)


def test_a_stage_keeps_one_part_for_each_core():
    merge = new_merge(np.zeros((2, 4, 4), np.uint8), InstanceSettings(form="plain"), 2)
    merge.save("join", 3, {"owners": np.arange(2)})
    merge.save("join", 3, {"owners": np.arange(5)})
    merge.save("join", 2, {"owners": np.arange(1)})
    assert merge.load("join", 3)["owners"].tolist() == [0, 1, 2, 3, 4]
    assert list(merge.store.parts) == [("join", 3), ("join", 2)]

"""Settings for all tests: one thread each, and where the real data is."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import pytest
import torch

torch.set_num_threads(1)
cv2.setNumThreads(0)
os.environ["OMP_NUM_THREADS"] = "1"
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets; the test is skipped where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real data sets are not beside the project (../shared/data)")
    return REAL_DATA

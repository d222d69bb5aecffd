"""What a data set consists of, as hashes: to know a training image again, and to refuse a resume with other data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pixelwise.data.layouts import Sample, Source
from pixelwise.files import file_hash


def image_fingerprints(samples: Sequence[Sample]) -> dict[str, str]:
    """Name of each sample, and 16 hexadecimal digits of the hash of its image file (and page), wherever it lies.

    Files are read once, in parallel.
    """
    hashes = _hash_files([sample.image for sample in samples])
    return {sample.name: _of_source(sample.image, hashes) for sample in samples}


def data_fingerprint(samples: Sequence[Sample]) -> str:
    """16 hexadecimal digits that change when a name, an image or a mask of the data set changes; no order counts."""
    hashes = _hash_files([source for sample in samples for source in (sample.image, *sample.masks)])
    lines = [" ".join([s.name, *(_of_source(source, hashes) for source in (s.image, *s.masks))]) for s in samples]
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _hash_files(sources: Sequence[Source]) -> dict[Source, str]:
    paths = sorted({source.path for source in sources})
    with ThreadPoolExecutor() as pool:
        by_path = dict(zip(paths, pool.map(file_hash, paths), strict=True))
    return {source: by_path[source.path] for source in sources}


def _of_source(source: Source, hashes: dict[Source, str]) -> str:
    page = "" if source.page is None else f".{source.page}"
    return hashes[source][:16] + page

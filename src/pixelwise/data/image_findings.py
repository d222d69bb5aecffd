"""What is wrong, or worth knowing, with the images of a data set: small functions from records to diagnoses.

`IMAGE_CHECKS` lists them by name. What training refuses is said in the words of training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from pixelwise.data.checkup import Record
from pixelwise.data.doctor import Diagnosis, channels_finding, same_for
from pixelwise.data.file_form import SUFFIXES_OF
from pixelwise.errors import Finding

ANY_FILE = Path()
LARGE_PIXELS = 10**8
SMALL_SIDE = 16
LONG = 20
KINDS_OF_REFUSAL = {
    "the file is empty": "empty files",
    "the content is no known picture": "files that are no picture",
    "frames or pages": "several pictures in one file",
    "cannot be opened": "files that cannot be opened",
    "damaged or unsupported": "damaged pictures",
    "strips or tiles are missing": "damaged pictures",
    "NaN": "NaN or infinity",
    "pixels in": "pictures of an impossible size",
    "colour space": "colours that cannot be read",
}


def kind_of_refusal(finding: Finding) -> str:
    """What is wrong with a file that cannot be read, in a few words."""
    words = (kind for phrase, kind in KINDS_OF_REFUSAL.items() if phrase in finding.found)
    return next(words, "files that cannot be used")


def check_unreadable(records: Sequence[Record]) -> list[Diagnosis]:
    """Images that training cannot read: an error each. The colours of a printer can be mended."""
    return [
        Diagnosis(
            finding=record.image.refused,
            kind=kind_of_refusal(record.image.refused),
            mends="saved as RGB" if record.image.header is not None else "",
        )
        for record in records
        if record.image.refused is not None
    ]


def check_names(records: Sequence[Record]) -> list[Diagnosis]:
    """Images whose suffix is that of another format: a warning, since other programs may refuse them."""
    rule = "the suffix of a file is the one of its format"
    return [
        Diagnosis(
            finding=Finding(
                file=record.path,
                found=f"a {record.image.form.kind} by its content",
                rule=rule,
                fix=f"rename it to {record.path.stem}{SUFFIXES_OF[record.image.form.kind][0]}",
                severity="warning",
            ),
            kind="wrong file extension",
            mends="renamed",
        )
        for record in records
        if record.image.header is not None and not record.image.form.fits_name(record.path)
    ]


def check_cmyk(records: Sequence[Record]) -> list[Diagnosis]:
    """CMYK images that are read as RGB: a warning, since each program converts them in its own way."""
    return same_for(
        (r.path for r in records if r.image.form.cmyk and r.image.refused is None),
        Finding(
            file=ANY_FILE,
            found="colours of a printer (CMYK)",
            rule="RGB or grey; every program converts CMYK in its own way",
            fix="save it as RGB",
            severity="warning",
        ),
        kind="CMYK",
        mends="saved as RGB",
    )


def check_orientation(records: Sequence[Record]) -> list[Diagnosis]:
    """Images that are stored turned, with a note how to display them: a note, as training applies it."""
    return same_for(
        (r.path for r in records if r.image.form.orientation != 1 and r.image.header is not None),
        Finding(
            file=ANY_FILE,
            found="stored turned, with an EXIF orientation",
            rule="understood: the image is turned as displayed, and so must its mask be",
            fix="nothing to do, if the mask was drawn on the displayed image",
            severity="note",
        ),
        kind="EXIF orientation",
        mends="saved upright",
    )


def check_alpha(records: Sequence[Record]) -> list[Diagnosis]:
    """Images with transparent pixels, which are used as they are: a note."""
    return same_for(
        (r.path for r in records if r.image.transparent),
        Finding(
            file=ANY_FILE,
            found="pixels that an alpha channel hides",
            rule="understood: alpha is left out, the colours count",
            fix="nothing to do, if the colours under transparent pixels are right",
            severity="note",
        ),
        kind="transparent images",
    )


def check_constant(records: Sequence[Record]) -> list[Diagnosis]:
    """Images of one single value: a warning."""
    return same_for(
        (r.path for r in records if r.image.header is not None and r.image.lowest == r.image.highest),
        Finding(
            file=ANY_FILE,
            found="all pixels have the same value",
            rule="an image shows something",
            fix="look at it; export it again, or remove it with its mask",
            severity="warning",
        ),
        kind="constant images",
    )


def check_sixteen_bits(records: Sequence[Record]) -> list[Diagnosis]:
    """Images of more than 8 bits: a note that their values are used as they are."""
    return same_for(
        (r.path for r in records if r.image.header is not None and r.image.header.dtype not in ("uint8", "bool")),
        Finding(
            file=ANY_FILE,
            found="values of more than 8 bits",
            rule="understood: values are used as stored, scaled by the statistics of the training images",
            fix="nothing to do",
            severity="note",
        ),
        kind="more than 8 bits",
    )


def check_extreme_sizes(records: Sequence[Record]) -> list[Diagnosis]:
    """Very small, very large and very long images: a warning."""
    return [
        Diagnosis(
            finding=Finding(
                file=record.path,
                found=f"{record.width} x {record.height} pixels",
                rule=f"usual sizes: sides of {SMALL_SIDE} pixels and more, at most {LARGE_PIXELS // 10**6} million "
                f"pixels, sides of less than 1:{LONG}",
                fix="look whether it is an image of this data set; cut very large ones into smaller files",
                severity="warning",
            ),
            kind="extreme sizes",
        )
        for record in records
        if record.image.header is not None and _is_extreme(record)
    ]


def check_bands(records: Sequence[Record]) -> list[Diagnosis]:
    """Images with another number of channels than most: an error. Grey can become RGB, and RGB that is grey, grey."""
    usual = usual_channels(records)
    rare = [r for r in records if r.image.header is not None and r.image.header.channels != usual]
    count = sum(r.image.header is not None for r in records) - len(rare)
    return [
        Diagnosis(
            finding=channels_finding(record.path, record.image.header.channels, usual=usual, images=count),
            kind="other numbers of channels",
            mends=f"saved with {usual} channels" if can_convert(record, usual) else "",
        )
        for record in rare
        if record.image.header is not None
    ]


def usual_channels(records: Sequence[Record]) -> int:
    """The number of channels that most images have; 0 where none can be read."""
    numbers = Counter(record.image.header.channels for record in records if record.image.header is not None)
    return numbers.most_common(1)[0][0] if numbers else 0


def can_convert(record: Record, channels: int) -> bool:
    """Whether an image can have so many channels without a loss and without an invention."""
    own = record.image.header.channels if record.image.header else 0
    return record.image.grey and {own, channels} == {1, 3}


def _is_extreme(record: Record) -> bool:
    short, long = sorted((record.height, record.width))
    return short < SMALL_SIDE or short * long > LARGE_PIXELS or long >= LONG * short


IMAGE_CHECKS: dict[str, Callable[[Sequence[Record]], list[Diagnosis]]] = {
    "unreadable": check_unreadable,
    "names": check_names,
    "cmyk": check_cmyk,
    "channels": check_bands,
    "orientation": check_orientation,
    "alpha": check_alpha,
    "bits": check_sixteen_bits,
    "constant": check_constant,
    "sizes": check_extreme_sizes,
}

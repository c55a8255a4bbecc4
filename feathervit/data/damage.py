"""Finds damage that decoders ignore: image data that is missing, left over, or does not match its checksum.

libjpeg fills missing data with grey and prints a warning, which Pillow discards. A suspicious JPEG is therefore decoded again,
with bytes appended to its data. This does not change the pixels of an intact JPEG, because its data is complete. PNG and
deflated TIFF have checksums. Compressed data contains long runs of zeros only for images of one colour. In uncompressed files,
only zeros at the end can be detected. `UNGUARDED` lists the damage that cannot be detected.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

MISSING = "truncated: image data is missing, and decoders fill the rest"
ZEROS = "damaged: its compressed data holds a block of zeros"
CHECKSUM = "damaged: a checksum of its data is wrong"
UNGUARDED = {
    "JPEG": "changed bytes that keep the number of blocks",
    "WEBP": "changed bytes",
    "AVIF": "changed bytes",
    "HEIF": "changed bytes",
    "JPEG2000": "changed bytes",
    "GIF": "changed bytes that keep the number of pixels",
    "TIFF": "changed bytes, unless the data is deflated",
    "BMP": "changed bytes",
    "PPM": "changed bytes",
}
BOXES = ("WEBP", "AVIF", "HEIF", "JPEG2000")  # formats that store compressed pixels in boxes with a name and a length
CHECKED = ("JPEG", "MPO", "PNG", "TIFF", *BOXES)  # formats whose bytes are checked

_JUNK = bytes((0x5A, 0xC3, 0x96, 0x3C)) * 16  # none of these bytes is part of a marker
_RUN = 32  # encoders write runs of zeros of this length only for images of one colour
_MARKER = re.compile(rb"\xff[^\x00\xff]")
FLAT = 0.25  # an image is suspicious from this share of rows of one colour
_LARGE = 2_000_000  # pixels; larger JPEGs are compared at half size, where most coefficients still have an effect


def fault(data: bytes, image: Image.Image) -> str | None:
    """Returns the damage of a file that was decoded without an error, or None.

    `data`: the bytes of the file. `image`: the decoded image, at any size.
    """
    kind = image.format
    if kind in ("JPEG", "MPO"):
        return _jpeg_fault(data, image)
    if kind == "PNG":
        chunks = (chunk for chunk in _png_chunks(data) if chunk[0] == b"IDAT")
        return None if all(zlib.crc32(part, zlib.crc32(name)) == sum_ for name, part, sum_ in chunks) else CHECKSUM
    if kind in BOXES:
        return ZEROS if _has_zeros(data, image) and not _has_flat_rows(image) else None
    if kind == "TIFF" and image.tag_v2.get(259) in (8, 32946):
        return None if all(map(_inflates, _strips(data, image))) else CHECKSUM
    if kind in ("BMP", "PPM", "TIFF"):
        return _ends_in_zeros(image)
    return None


def doubt(data: bytes, image: Image.Image) -> str | None:
    """Returns possible damage of a file without a `fault`, or None. The author may also have intended this content."""
    if image.format in ("JPEG", "MPO"):
        jpeg = _parse(data) or _Jpeg()
        one = len(jpeg.parts) == 1 and not jpeg.arithmetic and not _ends_in_grey(image)
        if one and _same(data, _shortened(data, jpeg.parts)):
            return "more data than its pixels need"
        if _has_zeros(data, image) and not _has_flat_rows(image):
            return "a block of zeros in its compressed data"
    share = _flat_share(image)
    return f"{100 * share:.0f} % of its rows are of one colour, with a sharp edge" if share >= FLAT else None


# ---------------------------------------------------------------------------------------------------------------------
# JPEG


@dataclass
class _Jpeg:
    """Holds the structure of a JPEG.

    `parts`: start and end of the compressed data between markers. `several`: the data has several scans or restart
    intervals, so that the end of the image does not show whether the other parts are complete.
    """

    arithmetic: bool = False
    several: bool = False
    parts: list[tuple[int, int]] = field(default_factory=list)


def _jpeg_fault(data: bytes, image: Image.Image) -> str | None:
    jpeg = _parse(data)
    if jpeg is None or jpeg.arithmetic:  # an arithmetic decoder may read missing data as zeros
        return None
    zeros = [part for part in jpeg.parts if data.find(bytes(_RUN), *part) >= 0]
    if (jpeg.several or zeros or _ends_in_grey(image)) and not _same(data, _lengthened(data, jpeg.parts)):
        return MISSING
    if zeros and not _ends_in_grey(image) and _same(data, _shortened(data, zeros)):
        return ZEROS
    return None


def _has_zeros(data: bytes, image: Image.Image) -> bool:
    """Returns whether the compressed data contains more zeros than an image of many colours produces."""
    if image.format in BOXES:
        return any(bytes(2 * _RUN) in part for part in _payload(data, image.format))
    jpeg = _parse(data)
    return jpeg is not None and any(data.find(bytes(2 * _RUN), *part) >= 0 for part in jpeg.parts)


def _parse(data: bytes) -> _Jpeg | None:
    """Finds the compressed data of a JPEG. Returns None for data without the structure of a JPEG."""
    jpeg, at, components = _Jpeg(), 2, 0
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xD9:
            break
        body = at + 4
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            jpeg.arithmetic, components = marker >= 0xC9, data[body + 5] if body + 5 < len(data) else 0
        if marker == 0xDA:
            jpeg.several |= body < len(data) and data[body] != components
            at = _read_scan(data, at, jpeg)
    jpeg.several |= len(jpeg.parts) > 1
    return jpeg if jpeg.parts else None


def _read_scan(data: bytes, at: int, jpeg: _Jpeg) -> int:
    """Adds the parts of the scan at `at`. Returns the offset of the marker after the scan."""
    while True:
        match = _MARKER.search(data, at)
        end = match.start() if match else len(data)
        filled = end
        while filled > at and data[filled - 1] == 0xFF:
            filled -= 1
        jpeg.parts.append((at, filled))
        if not match or not 0xD0 <= data[end + 1] <= 0xD7:  # any marker except a restart
            return end
        at = end + 2


def _ends_in_grey(image: Image.Image) -> bool:
    """Returns whether the last pixel has the grey that libjpeg uses for missing blocks."""
    last = image.getpixel((image.width - 1, image.height - 1))
    return all(126 <= band <= 130 for band in (last if isinstance(last, tuple) else (last,)))


def _lengthened(data: bytes, parts: list[tuple[int, int]]) -> bytes:
    ends = [0, *(end for _, end in parts)]
    return _JUNK.join(data[a:b] for a, b in zip(ends, [*ends[1:], len(data)], strict=True))


def _shortened(data: bytes, parts: list[tuple[int, int]]) -> bytes:
    """Removes the last bytes of each part: at least its last block and the padding."""
    out, at = [], 0
    for begin, end in parts:
        out.append(data[at : max(begin, end - 4)])
        at = end
    return b"".join([*out, data[at:]])


def _same(a: bytes, b: bytes) -> bool:
    """Returns whether two JPEGs have the same pixels. The first one must be decodable."""
    first = _decoded(a)
    try:
        return first == _decoded(b)
    except (OSError, SyntaxError, ValueError):
        return False


def _decoded(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        if image.width * image.height > _LARGE:
            image.draft(None, (image.width // 2, image.height // 2))
        return image.tobytes()


# ---------------------------------------------------------------------------------------------------------------------
# Other formats


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Yields (name, content, checksum) of each complete chunk."""
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 12 + length > len(data):
            return
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length], struct.unpack_from(">I", data, at + 8 + length)[0]
        at += 12 + length


def _payload(data: bytes, kind: str) -> Iterator[bytes]:
    """Yields the parts of a file with compressed pixels."""
    if data.startswith(b"\xff\x4f\xff\x51"):  # JPEG 2000 without boxes
        yield data
        return
    at = 12 if kind == "WEBP" else 0
    while at + 8 <= len(data):
        if kind == "WEBP":
            name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
            size = 8 + length + length % 2
        else:
            length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
            size = length if length >= 8 else len(data) - at  # 0: to the end; 1: 64 bits, longer than an image file
        if name in (b"VP8 ", b"VP8L", b"ALPH", b"ANMF", b"mdat", b"jp2c"):
            yield data[at + 8 : at + size]
        at += size


def _strips(data: bytes, image: Image.Image) -> Iterator[bytes]:
    offsets, counts = (image.tag_v2.get(a) or image.tag_v2.get(b) or () for a, b in ((273, 324), (279, 325)))
    for offset, count in zip(offsets, counts, strict=False):
        yield data[offset : offset + count]


def _inflates(strip: bytes) -> bool:
    """Returns whether a strip is a complete zlib stream with a correct checksum, which libtiff does not verify."""
    stream = zlib.decompressobj()
    try:
        stream.decompress(strip)
    except zlib.error:
        return False
    return stream.eof


def _ends_in_zeros(image: Image.Image) -> str | None:
    """Returns a message if all values are zero from the middle of a row to the end of the file.

    In BMP files the end is the top of the image.
    """
    if image.width < 16 or not (_is_zero(image, image.height - 1) or _is_zero(image, 0)):
        return None
    x_HW = np.asarray(image).reshape(image.height, image.width, -1).any(-1)
    for rows_HW in (x_HW, x_HW[::-1]):
        empty = int(np.argmax(rows_HW[::-1].any(1)))  # rows of zeros at the end
        if not max(2, image.height // 20) <= empty <= image.height - 2:
            continue
        cut_W, before_W = rows_HW[-empty - 1], rows_HW[-empty - 2]
        first = image.width - int(np.argmax(cut_W[::-1]))  # where the zeros begin
        inside = image.width // 16 <= first <= image.width - image.width // 16
        if inside and cut_W[:first].mean() > 0.9 and before_W.mean() > 0.9:
            return "truncated: all values are zero from the middle of a row"
    return None


def _is_zero(image: Image.Image, y: int) -> bool:
    return not np.asarray(image.crop((0, y, image.width, y + 1))).any()


def _has_flat_rows(image: Image.Image) -> bool:
    """Returns whether any row is nearly of one colour, such as a white background."""
    x_HWC = np.asarray(image.convert("RGB"))
    return bool((np.ptp(x_HWC, axis=1) <= 8).all(1).any())


def _flat_share(image: Image.Image) -> float:
    """Returns the share of rows of one colour at the top or the bottom, next to rows of many colours.

    The cause is a truncated file, or bars in the image.
    """
    x_HWC = np.asarray(image.convert("RGB"))
    return max(_flat_rows(x_HWC), _flat_rows(x_HWC[::-1])) / len(x_HWC)


def _flat_rows(x_HWC: np.ndarray) -> int:
    """Counts the rows of one colour at the end. Returns 0 if the last complete row before them often has that colour."""
    same_HW = (x_HWC == x_HWC[-1, -1]).all(-1)
    flat = len(same_HW) if same_HW.all() else int(np.argmax(~same_HW[::-1].all(1)))
    before = len(same_HW) - flat - 2  # the row in between may be cut in its middle
    return flat if before >= 0 and same_HW[before].mean() < 0.1 else 0

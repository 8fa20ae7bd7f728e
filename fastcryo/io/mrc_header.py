"""The header of an MRC file: checked against the size of the file before any value is used.

mrcfile would warn about some of the defects refused here and go on. Its definition of the header
and of the modes is used.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mrcfile.constants import IMAGE_STACK_SPACEGROUP, VOLUME_STACK_SPACEGROUP
from mrcfile.dtypes import HEADER_DTYPE
from mrcfile.utils import byte_order_from_machine_stamp, dtype_from_mode
from numpy.typing import NDArray

from fastcryo._version import __version__
from fastcryo.errors import InputError

HEADER_BYTES = HEADER_DTYPE.itemsize
LARGEST_SIDE = 10_000_000  # a count with its bytes swapped is above 2**24
ISOTROPY_TOLERANCE = 1e-3
IMOD_STAMP = 1146047817


def new_header(shape: tuple[int, ...], pixel_size: float, spacegroup: int) -> NDArray:
    """Fill the header of a float32 map (space group 1) or image stack (0), origin and start 0."""
    header = np.zeros((), dtype=HEADER_DTYPE.newbyteorder("<"))
    nz, ny, nx = shape
    mz = 1 if spacegroup == IMAGE_STACK_SPACEGROUP else nz
    header["nx"], header["ny"], header["nz"], header["mode"] = nx, ny, nz, 2
    header["mx"], header["my"], header["mz"] = nx, ny, mz
    header["cella"] = (nx * pixel_size, ny * pixel_size, mz * pixel_size)
    header["cellb"] = (90, 90, 90)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["ispg"], header["nversion"] = spacegroup, 20141
    header["map"], header["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
    header["nlabl"] = 1
    header["label"][0] = f"fastcryo {__version__}".encode()
    return header


def parse_header(path: Path, raw: bytes) -> NDArray:
    """Interpret the first 1024 bytes of a file; the dtype of the result has its byte order."""
    if len(raw) < HEADER_BYTES:
        raise InputError(f"{path}: truncated, {len(raw)} bytes where an MRC header has 1024")
    header = np.frombuffer(raw, HEADER_DTYPE)[0]
    try:
        order = byte_order_from_machine_stamp(header["machst"])
    except ValueError:  # older programs leave it empty
        order = "<"
    # Files with the wrong stamp exist; in the wrong order the sizes are absurd.
    for candidate in (order, "<" if order == ">" else ">"):
        header = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(candidate))[0]
        if all(0 < header[n] <= LARGEST_SIDE for n in ("nx", "ny", "nz")):
            return header
    raise InputError(f"{path}: not an MRC file (its header gives no sensible size)")


def layout(path: Path, header: NDArray) -> tuple[np.dtype, int]:
    """Return the type of the values and the offset of the first; refuse what cannot be read."""
    try:
        dtype = dtype_from_mode(header["mode"])
    except ValueError:
        dtype = np.dtype(np.complex64)
    if dtype.kind == "c":
        raise InputError(
            f"{path}: MRC mode {header['mode']} cannot be read, convert to mode 2 (float32)"
        )
    # A field taken out of the header is in native order: only the dtype knows that of the file.
    integer = header.dtype["mode"]
    imod_stamp, imod_flags = np.frombuffer(bytes(header["extra2"])[40:48], integer)
    if dtype == np.int8 and imod_stamp == IMOD_STAMP and not imod_flags & 1:
        dtype = np.dtype(np.uint8)
    if header["ispg"] >= VOLUME_STACK_SPACEGROUP:
        raise InputError(f"{path}: a stack of volumes, a map or a stack of images is needed")
    if header["nsymbt"] < 0:
        raise InputError(f"{path}: the header gives a negative size of the extended header")
    return dtype.newbyteorder(integer.byteorder), HEADER_BYTES + int(header["nsymbt"])


def check_size(path: Path, size: int, offset: int, unit: int, promised: int, what: str) -> None:
    """Compare the bytes of a file with what its header promises, in units such as images."""
    held, rest = divmod(max(size - offset, 0), unit)
    if held < promised:
        part = " and a part of one" if rest else ""
        raise InputError(
            f"{path}: the header promises {promised} {what} but the file holds {held}{part}, "
            "copy or write it again"
        )
    # Values would be read from a wrong place if the header's own size is what is wrong.
    if rest:
        raise InputError(
            f"{path}: {size - offset - unit * promised} bytes more than the header explains, "
            "write it again with the program that made it"
        )


def voxel_size(path: Path, header: NDArray) -> float:
    """Return the side of the cubic voxels, angstrom, or 0 if the header does not say."""
    counts = np.array([header[n] for n in ("mx", "my", "mz")], dtype=np.float64)
    cell = np.array(header["cella"].tolist(), dtype=np.float64)
    if (counts <= 0).any() or (cell <= 0).any():
        return 0.0
    if any(angle and abs(angle - 90) > 0.1 for angle in header["cellb"].tolist()):
        raise InputError(f"{path}: the cell's angles are not 90 degrees, resample the map")
    sizes = cell / counts
    if np.ptp(sizes) > ISOTROPY_TOLERANCE * sizes.mean():
        shown = " x ".join(f"{s:.4g}" for s in sizes)
        raise InputError(f"{path}: voxels are {shown} A, equal sides are needed, resample the map")
    return float(sizes.mean())

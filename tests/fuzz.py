"""Mutated STAR, .cs and MRC files: read, or refused in one sentence, in bounded time and memory.

``python -m tests.fuzz --count 100000`` mutates files made here and, where there are some, those of
a folder (``--seeds DIR``). It prints what it found and keeps the files that failed.
"""

from __future__ import annotations

import argparse
import collections
import io
import shutil
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
from pathlib import Path

import numpy as np

from fastcryo.errors import InputError
from fastcryo.info import describe
from fastcryo.io.mrc import open_stack, read_map, write_map, write_stack
from fastcryo.particles import image_problems, read_particles

BINARY = (b"\x93NUMPY", b"\x08\x00\x00\x00")
LARGEST_SEED = 60_000  # bytes
MOST_SECONDS = 5.0
# Memory beyond ten times the file, for messages and for the images that the file names.
ALLOWANCE = 1_000_000
# What bzip2 takes for a block, however short the file.
BZIP2_MARK, BZIP2_BLOCK = b"BZh", 900_000
WORDS = (
    *("nan", "inf", "-inf", "1e999", "-1", "0", "1e-320", "99999999999999999999", "0x10", "1,5"),
    *("None", "''", '""', "'", '"', ";", "#", "$", "_", "?", ".", "@", "[1,2]", "[nan]", "["),
    *("data_", "data_particles", "data_optics", "loop_", "stop_", "save_", "a.mrcs", "1@"),
    *("@a.mrcs", "0@a.mrcs", "7@a.mrcs", "1@../../../../etc/passwd", "1@/dev/zero", "\x00"),
    *("1@/dev/stdin", "\u00e9", "_rlnImageName", "_rlnCtfImage", "_rlnTomoName", "3", "-1e300"),
    *("_rlnBeamTiltX", "_rlnMagMat00", "_rlnImageSize", "_rlnOddZernike", "1e30", "1e-30", "2"),
)
NUMBERS = (0, 1, -1, 2, 127, 128, 255, 32767, 65535, 2**20, 2**31 - 1, -(2**31), 2**32 - 1)


def seeds(folder: Path) -> dict[str, list[bytes]]:
    """Make one file of each dialect; the names in them lead to stacks in the folder."""
    rng = np.random.default_rng(0)
    write_stack(folder / "a.mrcs", rng.normal(size=(6, 8, 8)), 1.5)
    write_map(folder / "m.mrc", rng.normal(size=(8, 8, 8)), 1.5)
    stack, volume = ((folder / name).read_bytes() for name in ("a.mrcs", "m.mrc"))
    extended = bytearray(stack[:1024] + bytes(128) + stack[1024:])
    extended[92:96] = np.int32(128).tobytes()
    small = bytearray(stack[:1024] + rng.integers(0, 255, 6 * 64, dtype=np.uint8).tobytes())
    small[12:16] = np.int32(0).tobytes()
    half = bytearray(stack[:1024] + rng.normal(size=6 * 64).astype(np.float16).tobytes())
    half[12:16] = np.int32(12).tobytes()
    swapped = np.frombuffer(stack, "<u4").byteswap().tobytes()
    return {
        "star": [text.encode() for text in star_seeds()],
        "cs": [cs_seed(rng)],
        "mrc": [stack, volume, bytes(extended), bytes(small), bytes(half), swapped],
    }


def columns(text: str) -> list[str]:
    """Return names of columns."""
    return [f"rln{name}" for name in text.replace("rln", "").split()]


def star_seeds() -> list[str]:
    """Return files of RELION 3.0 and 3.1."""
    old = columns(
        "rlnImageName rlnMicrographName rlnVoltage rlnDefocusU rlnDefocusV "
        "rlnDefocusAngle rlnSphericalAberration rlnAmplitudeContrast rlnMagnification "
        "rlnDetectorPixelSize rlnAngleRot rlnAngleTilt rlnAnglePsi rlnOriginX rlnOriginY "
        "rlnRandomSubset"
    )
    rows = [
        f"{i}@a.mrcs 'm 1.mrc' 300 1e4 9e3 {i} 2.7 0.1 50000 7 {i} 9 3 .5 -1 {1 + i % 2}"
        for i in range(1, 7)
    ]
    first = "\n".join(["data_", "", "loop_", *(f"_{c} #{i}" for i, c in enumerate(old, 1)), *rows])
    optics = columns(
        "rlnOpticsGroup rlnOpticsGroupName rlnVoltage rlnSphericalAberration "
        "rlnAmplitudeContrast rlnImagePixelSize rlnImageSize rlnBeamTiltX rlnBeamTiltY "
        "rlnOddZernike rlnEvenZernike rlnMagMat00 rlnMagMat01 rlnMagMat10 rlnMagMat11 "
        "rlnCtfDataAreCtfPremultiplied"
    )
    new = columns(
        "rlnImageName rlnAngleRot rlnAngleTilt rlnAnglePsi rlnOriginXAngst "
        "rlnOriginYAngst rlnDefocusU rlnDefocusV rlnDefocusAngle rlnOpticsGroup "
        "rlnRandomSubset rlnClassNumber"
    )
    groups = [f"{g} g{g} 300 2.7 0.1 1.5 8 0.1 0 [1,2,3] [.1,0,2] 1 0 0 1 {g - 1}" for g in (1, 2)]
    rows = [
        f"{i:06d}@a.mrcs {i} 20 30 1 2 1e4 9e3 5 {1 + i % 2} {1 + i % 2} 1" for i in range(1, 7)
    ]
    second = "\n".join(
        ["# version 30001", "", "data_optics", "", "loop_", *(f"_{c}" for c in optics), *groups,
         "", "data_particles", "", "loop_", *(f"_{c} #1" for c in new), *rows, "", ""]
    )  # fmt: skip
    return [first, second]


def cs_seed(rng: np.random.Generator) -> bytes:
    """Return a .cs file of six particles."""
    fields = [
        ("uid", "<u8"), ("blob/path", "S8"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)),
        ("blob/psize_A", "<f4"), ("blob/sign", "<f4"), ("ctf/accel_kv", "<f4"),
        ("ctf/cs_mm", "<f4"), ("ctf/amp_contrast", "<f4"), ("ctf/df1_A", "<f4"),
        ("ctf/df2_A", "<f4"), ("ctf/df_angle_rad", "<f4"), ("ctf/exp_group_id", "<u4"),
        ("alignments3D/split", "<u4"),
        ("alignments3D/pose", "<f4", (3,)), ("alignments3D/shift", "<f4", (2,)),
        ("alignments3D/psize_A", "<f4"),
    ]  # fmt: skip
    table = np.zeros(6, fields)
    table["uid"], table["blob/idx"], table["blob/path"] = (
        rng.integers(1, 99, 6),
        range(6),
        b"a.mrcs",
    )
    table["blob/shape"], table["blob/psize_A"], table["blob/sign"] = 8, 1.5, 1
    table["ctf/accel_kv"], table["ctf/cs_mm"], table["ctf/amp_contrast"] = 300, 2.7, 0.1
    table["ctf/df1_A"] = table["ctf/df2_A"] = 1e4
    table["alignments3D/split"], table["alignments3D/psize_A"] = np.arange(6) % 2, 1.5
    table["alignments3D/pose"] = rng.normal(size=(6, 3))
    file = io.BytesIO()
    np.save(file, table)
    return file.getvalue()


def mutate(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Change a file in a few places."""
    out = bytearray(data)
    for _ in range(rng.geometric(0.6)):
        at = int(rng.integers(0, len(out) + 1))
        length = int(min(rng.geometric(0.02), len(out) - at))
        kind = rng.integers(0, 9 if data.startswith(BINARY) else 16)
        if kind == 0:
            out = out[:at]
        elif kind == 1:
            del out[at : at + length]
        elif kind == 2:
            out[at:at] = out[at : at + length] * int(rng.integers(1, 4))
        elif kind == 3:
            out[at : at + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        elif kind == 4 and at < len(out):
            out[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 5:
            number = int(rng.choice(len(NUMBERS)))
            value = (NUMBERS[number] & 0xFFFFFFFF).to_bytes(4, "little")
            place = at // 4 * 4 if rng.integers(0, 3) else int(rng.integers(0, 64)) * 4
            out[place : place + 4] = value
        elif kind == 6:
            start = int(rng.integers(0, len(other) + 1))
            out[at:at] = other[start : start + length]
        else:
            # One word of a text for another.
            stop = at
            while stop < len(out) and out[stop : stop + 1] not in (b" ", b"\n"):
                stop += 1
            while at and out[at - 1 : at] not in (b" ", b"\n"):
                at -= 1
            out[at:stop] = WORDS[int(rng.integers(0, len(WORDS)))].encode()
    return bytes(out)


def read_everything(path: Path, kind: str) -> str:
    """Read a file in all ways there are; return how it went: read or refused."""
    outcome = "refused"
    if kind == "mrc":
        try:
            read_map(path)
            outcome = "read"
        except InputError as error:
            one_sentence(error)
        try:
            stack = open_stack(path)
            out = np.empty((stack.box, stack.box), np.float32)
            for number in range(stack.count):
                stack.read(number, out)
            outcome = "read"
        except InputError as error:
            one_sentence(error)
        return outcome
    try:
        particles = read_particles(path, need_images=False)
        outcome = "read"
        if not image_problems(particles):
            read_particles(path).images(check_finite=False)
    except InputError as error:
        one_sentence(error)
    return outcome


def one_sentence(error: InputError) -> None:
    """Check a message."""
    text = str(error)
    assert text
    assert "\n" not in text
    assert len(text) < 2000


def check(path: Path, kind: str) -> str:
    """Read a file and measure it.

    Raises
    ------
    AssertionError
        It took too long, or too much memory.
    """
    began = time.perf_counter()
    limit = 10 * path.stat().st_size + ALLOWANCE
    if path.read_bytes().startswith(BZIP2_MARK):
        limit += BZIP2_BLOCK
    for _ in range(2):  # the first time may import what the file is the first to need
        tracemalloc.start()
        try:
            outcome = read_everything(path, kind)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        if peak < limit:
            break
    if kind != "mrc" and outcome == "read":
        describe(read_particles(path, need_images=False)).as_json()
    seconds = time.perf_counter() - began
    assert seconds < MOST_SECONDS, f"{seconds:.1f} s"
    assert peak < limit, f"{peak} bytes for a file of {path.stat().st_size}"
    return outcome


def main() -> int:
    """Mutate many files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=Path, help="folder of more files to mutate")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    arguments = parser.parse_args()
    warnings.simplefilter("error")
    outcomes, failures = collections.Counter(), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = seeds(folder)
        if arguments.seeds:
            for path in sorted(arguments.seeds.rglob("*")):
                kind = {".star": "star", ".cs": "cs"}.get(path.suffix, "mrc")
                if path.is_file() and path.suffix != ".md":
                    known[kind].append(path.read_bytes()[:LARGEST_SEED])
        for kind, files in known.items():
            for data in files:  # compiles what there is to compile, outside the measurement
                (folder / f"seed.{kind}").write_bytes(data)
                read_everything(folder / f"seed.{kind}", kind)
        for number in range(arguments.count):
            rng = np.random.default_rng([arguments.seed, number])
            kind = list(known)[number % 3]
            files = known[kind]
            data, other = (files[int(i)] for i in rng.integers(0, len(files), 2))
            path = folder / f"mutated.{kind}"
            path.write_bytes(mutate(data, other, rng))
            try:
                outcomes[kind, check(path, kind)] += 1
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                failures += 1
                arguments.keep.mkdir(exist_ok=True)
                shutil.copy(path, arguments.keep / f"{arguments.seed}-{number}.{kind}")
                print(f"{number} {kind}: {''.join(traceback.format_exception(error)[-3:])}")
            if (number + 1) % 5000 == 0:
                print(number + 1, dict(outcomes), failures, "failures", flush=True)
    print(arguments.count, dict(outcomes), failures, "failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

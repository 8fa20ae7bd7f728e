"""Maps and stacks: what is read is what was meant, what is defect is refused by name."""

import bz2
import gzip
import io
import itertools
import os
import shutil

import mrcfile
import numpy as np
import pytest
from mrcfile.dtypes import HEADER_DTYPE

from fastcryo import InputError
from fastcryo.io.atomic import replacing
from fastcryo.io.mrc import open_stack, read_map, write_map, write_stack

VALUES = np.arange(2 * 3 * 3).reshape(2, 3, 3)
CUBE = np.random.default_rng(5).normal(size=(6, 6, 6)).astype(np.float32)


def make_mrc(path, data, pixel_size=1.5, stack=False, order="<", **fields):
    """Write a file through mrcfile, then set header fields as wished, in either byte order."""
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(data)
        if stack:
            mrc.set_image_stack()
        mrc.voxel_size = pixel_size
    raw = bytearray(path.read_bytes())
    header = np.frombuffer(raw[:1024], HEADER_DTYPE).copy()
    for name, value in fields.items():
        header[name] = value
    if order == ">":
        header = header.astype(HEADER_DTYPE.newbyteorder(">"))
        header["machst"] = (0x11, 0x11, 0, 0)
        raw[1024:] = data.astype(data.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(header.tobytes() + bytes(raw[1024:]))
    return path


def read_all(path):
    stack = open_stack(path)
    out = np.empty((stack.count, stack.box, stack.box), np.float32)
    for i in range(stack.count):
        stack.read(i, out[i])
    return out


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float16, np.float32])
def test_every_mode_in_both_byte_orders_reads_as_float32(tmp_path, dtype, order):
    data = VALUES.astype(dtype) - (0 if dtype == np.uint16 else 7)
    stack = make_mrc(tmp_path / "s.mrcs", data.astype(dtype), stack=True, order=order)
    np.testing.assert_array_equal(read_all(stack), data)
    volume, pixel_size = read_map(
        make_mrc(tmp_path / "v.mrc", data.astype(dtype), order=order, ispg=1)
    )
    assert volume.dtype == np.float32
    np.testing.assert_array_equal(volume, data)
    assert pixel_size == 1.5


def test_compressed_maps_read_like_plain_ones(tmp_path):
    plain = make_mrc(tmp_path / "v.mrc", CUBE)
    (tmp_path / "v.mrc.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "v.map.bz2").write_bytes(bz2.compress(plain.read_bytes()))
    for name in ("v.mrc", "v.mrc.gz", "v.map.bz2"):
        np.testing.assert_array_equal(read_map(tmp_path / name)[0], CUBE)


@pytest.mark.parametrize("axes", list(itertools.permutations([1, 2, 3])))
def test_axes_are_turned_to_z_y_x_whatever_their_order_on_disk(tmp_path, axes):
    zyx = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    column, row, section = axes  # 1: x, the last axis of zyx
    on_disk = zyx.transpose(3 - section, 3 - row, 3 - column)
    path = make_mrc(
        tmp_path / "v.mrc",
        np.ascontiguousarray(on_disk),
        mapc=column,
        mapr=row,
        maps=section,
        mx=4,
        my=3,
        mz=2,
        cella=(8.0, 6.0, 4.0),
    )
    volume, pixel_size = read_map(path)
    np.testing.assert_array_equal(volume, zyx)
    assert pixel_size == 2.0


def test_axes_that_old_programs_left_unset_are_x_y_z(tmp_path):
    path = make_mrc(tmp_path / "v.mrc", CUBE, mapc=0, mapr=0, maps=0)
    np.testing.assert_array_equal(read_map(path)[0], CUBE)


def test_unknown_pixel_size_is_zero(tmp_path):
    assert read_map(make_mrc(tmp_path / "v.mrc", CUBE, cella=(0, 0, 0)))[1] == 0
    assert read_map(make_mrc(tmp_path / "v.mrc", CUBE, mx=0))[1] == 0


def test_a_box_that_is_no_cube_is_refused_only_where_a_cube_is_needed(tmp_path):
    path = make_mrc(tmp_path / "v.mrc", CUBE[:, :4])
    assert read_map(path)[0].shape == (6, 4, 6)
    with pytest.raises(InputError, match=r"v\.mrc: the map is 6 x 4 x 6 voxels, a cube"):
        read_map(path, cubic=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cella": (9, 9, 9.1)}, "voxels are 1.5 x 1.5 x 1.517 A"),
        ({"cellb": (90, 94, 90)}, "angles are not 90"),
        ({"mapc": 1, "mapr": 1, "maps": 3}, "axes MAPC, MAPR, MAPS are"),
        ({"mode": 4}, "MRC mode 4 cannot be read"),
        ({"mode": 101}, "MRC mode 101 cannot be read"),
        ({"ispg": 401}, "stack of volumes"),
        ({"ispg": 0, "mz": 1}, "holds 6 images, a map is needed"),
        ({"nsymbt": -4}, "negative size"),
        ({"nx": 0}, "no sensible size"),
        ({"nz": 7}, "promises 7 sections but the file holds 6"),
        ({"nz": 5}, None),
        ({"nsymbt": 4}, "promises 6 sections but the file holds 5 and a part of one"),
    ],
)
def test_a_defect_header_of_a_map_is_refused_by_name(tmp_path, fields, message):
    path = make_mrc(tmp_path / "v.mrc", CUBE, **fields)
    if message is None:  # whole sections more than promised: still aligned
        assert read_map(path)[0].shape == (5, 6, 6)
        return
    with pytest.raises(InputError, match=message) as caught:
        read_map(path)
    assert str(path) in str(caught.value)


def test_voxels_that_differ_by_rounding_only_are_cubes(tmp_path):
    path = make_mrc(tmp_path / "v.mrc", CUBE, cella=(9.0, 9.003, 8.999))
    assert read_map(path)[1] == pytest.approx(1.5, rel=1e-3)


def test_nan_in_a_map_is_refused_with_its_count(tmp_path):
    data = CUBE.copy()
    data[0, 0, :2] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        path = tmp_path / "v.mrc"
        make_mrc(path, CUBE)
        path.write_bytes(path.read_bytes()[:1024] + data.tobytes())
    with pytest.raises(InputError, match="2 voxels are NaN or infinite"):
        read_map(path)


@pytest.mark.parametrize("cut", [0, 100, 1024, 1500])
def test_truncated_files_are_refused(tmp_path, cut):
    path = make_mrc(tmp_path / "v.mrc", CUBE)
    path.write_bytes(path.read_bytes()[:cut])
    for read in (read_map, open_stack):
        with pytest.raises(InputError, match=r"v\.mrc: (truncated|the header promises 6)"):
            read(path)
    (tmp_path / "v.mrc.gz").write_bytes(gzip.compress(CUBE.tobytes())[:-9])
    with pytest.raises(InputError, match="cannot be read"):
        read_map(tmp_path / "v.mrc.gz")


def test_a_file_longer_than_its_header_explains_is_refused(tmp_path):
    path = make_mrc(tmp_path / "s.mrcs", CUBE, stack=True)
    path.write_bytes(path.read_bytes() + bytes(100))
    with pytest.raises(InputError, match="100 bytes more than the header explains"):
        open_stack(path)


@pytest.mark.parametrize("read", [read_map, open_stack])
def test_what_is_no_mrc_file_is_refused(tmp_path, read):
    text = tmp_path / "v.mrc"
    text.write_text("data_particles\n" * 200)
    with pytest.raises(InputError, match=r"v\.mrc: not an MRC file"):
        read(text)
    with pytest.raises(InputError, match=r"none\.mrc: cannot be read \(No such file"):
        read(tmp_path / "none.mrc")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path)


def test_a_stack_that_promises_more_than_it_holds_is_refused_with_both_numbers(tmp_path):
    path = make_mrc(tmp_path / "s.mrcs", CUBE, stack=True, nz=11029)
    with pytest.raises(InputError, match="promises 11029 images but the file holds 6,"):
        open_stack(path)


def test_images_that_are_not_square_are_refused(tmp_path):
    path = make_mrc(tmp_path / "s.mrcs", CUBE[:, :4], stack=True)
    with pytest.raises(InputError, match="images are 6 x 4 pixels"):
        open_stack(path)


def test_a_compressed_stack_is_refused(tmp_path):
    plain = make_mrc(tmp_path / "s.mrcs", CUBE, stack=True)
    (tmp_path / "s.mrcs.gz").write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(InputError, match="decompress it first"):
        open_stack(tmp_path / "s.mrcs.gz")


def test_an_image_beyond_the_end_is_refused(tmp_path):
    stack = open_stack(make_mrc(tmp_path / "s.mrcs", CUBE, stack=True))
    with pytest.raises(InputError, match="image 7 asked for, but the stack holds 6"):
        stack.read(6, np.empty((6, 6), np.float32))


@pytest.mark.parametrize("stamp", [(0, 0, 0, 0), (0x11, 0x11, 0, 0)])
def test_stacks_with_an_empty_or_wrong_stamp_and_no_map_id_are_read(tmp_path, stamp):
    path = make_mrc(tmp_path / "s.mrcs", CUBE, stack=True, map=b"", machst=stamp)
    np.testing.assert_array_equal(read_all(path), CUBE)


def test_extended_headers_are_skipped_and_single_images_are_stacks_of_one(tmp_path):
    with mrcfile.new(tmp_path / "s.mrc") as mrc:
        mrc.set_data(CUBE[0])
        mrc.set_extended_header(np.arange(20, dtype=np.int32))
    np.testing.assert_array_equal(read_all(tmp_path / "s.mrc"), CUBE[:1])


def test_bytes_that_imod_marks_as_unsigned_are_unsigned(tmp_path):
    extra = np.zeros(21, "<i4")
    data = np.array([[[200, 1], [2, 3]]], np.uint8)
    for flags, first in ((0, 200), (1, -56)):
        extra[10:12] = 1146047817, flags
        path = make_mrc(tmp_path / "s.mrcs", data.view(np.int8), stack=True, extra2=extra.tobytes())
        os.utime(path, ns=(flags, flags))
        assert read_all(path)[0, 0, 0] == first


def test_a_stack_written_anew_is_read_anew(tmp_path):
    path = tmp_path / "s.mrcs"
    write_stack(path, CUBE, 1.0)
    read_all(path)
    write_stack(path, 2 * CUBE[:2], 1.0)
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(read_all(path), 2 * CUBE[:2])


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_no_stack_stays_open(tmp_path):
    first = tmp_path / "0.mrcs"
    write_stack(first, CUBE, 1.0)
    before = len(os.listdir("/proc/self/fd"))
    stacks = []
    for i in range(1, 30):
        shutil.copy(first, tmp_path / f"{i}.mrcs")
        read_all(tmp_path / f"{i}.mrcs")
        stacks.append(open_stack(tmp_path / f"{i}.mrcs"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_written_maps_are_valid_and_read_back_exactly(tmp_path):
    path = tmp_path / "run_class001.mrc"
    write_map(path, CUBE.astype(np.float64), 1.25)
    assert mrcfile.validate(path, print_file=io.StringIO())
    volume, pixel_size = read_map(path, cubic=True)
    np.testing.assert_array_equal(volume, CUBE)
    assert pixel_size == 1.25
    with mrcfile.open(path) as mrc:
        assert mrc.is_volume()
        assert mrc.header.origin.item() == (0, 0, 0)
        assert mrc.nstart.item() == (0, 0, 0)
        assert mrc.get_labels()[0].startswith("fastcryo ")


def test_stacks_are_written_from_an_array_or_batch_by_batch(tmp_path):
    whole, parts = tmp_path / "a.mrcs", tmp_path / "b.mrcs"
    assert write_stack(whole, CUBE, 1.25) == 6
    assert write_stack(parts, iter([CUBE[:4], CUBE[4], CUBE[5:]]), 1.25) == 6
    # Sums run over different batches: only the statistics may differ, in their last digits.
    assert whole.read_bytes()[1024:] == parts.read_bytes()[1024:]
    for path in (whole, parts):
        assert mrcfile.validate(path, print_file=io.StringIO())
        with mrcfile.open(path) as mrc:
            assert mrc.is_image_stack()
            assert mrc.voxel_size.x == 1.25
            assert mrc.header.dmean == pytest.approx(CUBE.mean(dtype=np.float64), abs=1e-7)
            assert mrc.header.rms == pytest.approx(CUBE.std(dtype=np.float64), rel=1e-6)
            assert (mrc.header.dmin, mrc.header.dmax) == (CUBE.min(), CUBE.max())


def test_images_of_different_sizes_or_none_are_not_written(tmp_path):
    with pytest.raises(InputError, match=r"\(6, 6\) and \(5, 5\)"):
        write_stack(tmp_path / "s.mrcs", [CUBE[0], CUBE[0, :5, :5]], 1.0)
    with pytest.raises(InputError, match="no images"):
        write_stack(tmp_path / "s.mrcs", [], 1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_a_write_that_fails_leaves_the_former_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "s.mrcs"
    write_stack(path, CUBE, 1.0)

    def images():
        yield CUBE[0]
        raise failure

    with pytest.raises(failure):
        write_stack(path, images(), 1.0)
    np.testing.assert_array_equal(read_all(path), CUBE)
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_sentence_and_leaves_no_half_written_file(tmp_path):
    resource = pytest.importorskip("resource")
    write_map(tmp_path / "old.mrc", CUBE, 1.0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1200, limits[1]))
    try:
        with pytest.raises(InputError, match=r"old\.mrc: cannot be written \(File too large\)"):
            write_map(tmp_path / "old.mrc", 2 * CUBE, 1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    np.testing.assert_array_equal(read_map(tmp_path / "old.mrc")[0], CUBE)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_folder_or_a_folder_in_the_way_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"cannot be written .*create its folder first"):
        write_map(tmp_path / "none" / "v.mrc", CUBE, 1.0)
    (tmp_path / "v.mrc").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_map(tmp_path / "v.mrc", CUBE, 1.0)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_replaced_file_has_the_permissions_of_a_new_one(tmp_path):
    (tmp_path / "plain").write_text("")
    with replacing(tmp_path / "report.json") as temporary:
        assert temporary.suffix == ".json"
        temporary.write_text("{}")
    assert (tmp_path / "report.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


ZOO_MAPS = {
    "EMD-3197.map": ((20, 20, 20), 11.4),
    "EMD-3197.map.bz2": ((20, 20, 20), 11.4),
    "emd_3197.map.gz": ((20, 20, 20), 11.4),
    "emd_1155.ccp4": ((281, 91, 141), 16.4),
    "EMD-3001.map": "angles are not 90 degrees",
    "emd_8216.map.gz": "angles are not 90 degrees",
}
ZOO_STACKS = {
    "ay19102021_L3_position6_ribo_it09_bin8_1.82A.mrcs": (220, 64),
    "cryojax_000000.mrcs": (3, 16),
    "relion31.mrcs": (5, 256),
    **{
        f"{number:05d}_Ribosomes_1.70A.mrcs": "promises 11029 images but the file holds 1,"
        for number in (256, 263, 272, 276, 281, 286, 287, 294, 297, 299)
    },
}


def test_every_mrc_file_of_the_zoo_has_an_expectation(shared_data):
    found = {path.name for path in shared_data("reader-zoo", "mrc").iterdir()}
    assert found == set(ZOO_MAPS) | set(ZOO_STACKS)


@pytest.mark.parametrize("name", ZOO_MAPS)
def test_maps_of_other_programs_are_read_or_refused(shared_data, name):
    path, expected = shared_data("reader-zoo", "mrc", name), ZOO_MAPS[name]
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            read_map(path)
        return
    volume, pixel_size = read_map(path)
    assert volume.shape == expected[0]
    assert pixel_size == pytest.approx(expected[1], rel=1e-6)


@pytest.mark.parametrize("name", ZOO_STACKS)
def test_stacks_of_other_programs_are_read_or_refused(shared_data, name):
    path, expected = shared_data("reader-zoo", "mrc", name), ZOO_STACKS[name]
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            open_stack(path)
        return
    images = read_all(path)
    assert images.shape == (expected[0], expected[1], expected[1])
    assert np.isfinite(images).all()
    assert images.std() > 0

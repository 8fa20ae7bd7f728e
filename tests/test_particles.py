"""Particles: images come with the right metadata, in any order, from any folder."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from fastcryo import CTF, InputError
from fastcryo.io.mrc import read_map, write_stack
from fastcryo.particles import OpticsGroup, Particles, read_particles, write_particles
from fastcryo.rotations import random_rotations

BOX = 12
COUNTS = {"mics/a.mrcs": 5, "mics/b.mrcs": 3, "c.mrc": 4}
GROUPS = (
    OpticsGroup("first", 300.0, 2.7, 0.1, 1.5, BOX),
    OpticsGroup("second", 200.0, 1.4, 0.07, 1.5, BOX),
)


def make_particles(names, slices, source=Path("made.star"), half=None):
    """Make particles that name images, with random poses and CTF in two optics groups."""
    rng = np.random.default_rng(3)
    count = len(slices)
    stacks = tuple(dict.fromkeys(names))
    group = rng.integers(0, 2, count)
    group[:2] = 0, 1
    return Particles(
        rotations=random_rotations(count, rng),
        shifts=rng.normal(scale=5, size=(count, 2)),
        ctf=CTF(
            defocus_u=rng.uniform(1e4, 2e4, count),
            defocus_v=rng.uniform(1e4, 2e4, count),
            defocus_angle=rng.uniform(0, 180, count),
            voltage=np.array([300.0, 200.0])[group],
            spherical_aberration=np.array([2.7, 1.4])[group],
            amplitude_contrast=np.array([0.1, 0.07])[group],
            phase_shift=rng.uniform(0, 90, count),
            bfactor=rng.uniform(0, 50, count),
            scale=rng.uniform(0.5, 1, count),
        ),
        pixel_size=1.5,
        box=BOX,
        half=rng.integers(1, 3, count).astype(np.int8) if half is None else np.int8(half),
        optics_group=group,
        optics=GROUPS,
        stack=np.array([stacks.index(n) for n in names]),
        slice=np.array(slices),
        stacks=tuple(map(Path, stacks)),
        source=source,
    )


@pytest.fixture
def project(tmp_path):
    """Write three stacks and a STAR file that names all images but one, in a mixed order.

    Every pixel of an image is its stack's number times 100 plus its index.
    """
    root = tmp_path / "project"
    (root / "mics").mkdir(parents=True)
    (root / "Refine3D" / "job001").mkdir(parents=True)
    rows = []
    for number, (name, count) in enumerate(COUNTS.items()):
        values = 100 * number + np.arange(count, dtype=np.float32)
        write_stack(root / name, np.broadcast_to(values[:, None, None], (count, BOX, BOX)), 1.5)
        rows += [(name, i) for i in range(count)]
    rows = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))][1:]
    names, slices = zip(*rows, strict=True)
    star = root / "Refine3D" / "job001" / "run_data.star"
    write_particles(
        star,
        make_particles(names, slices),
        [f"{i + 1:06d}@{name}" for name, i in rows],
    )
    expected = [100 * list(COUNTS).index(name) + i for name, i in rows]
    return root, star, np.array(expected, dtype=np.float32)


def edit(star, old, new):
    text = star.read_text()
    assert old in text
    star.write_text(text.replace(old, new))


def test_images_come_in_the_order_asked_from_many_stacks(project):
    _, star, expected = project
    particles = read_particles(star)
    images = particles.images()
    assert images.shape == (len(expected), BOX, BOX)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, np.broadcast_to(expected[:, None, None], images.shape))
    order = [7, 0, 10, 7, 3]
    np.testing.assert_array_equal(particles.images(order)[:, 0, 0], expected[order])
    np.testing.assert_array_equal(particles.images(expected > 99)[:, 0, 0], expected[expected > 99])
    assert particles.images([]).shape == (0, BOX, BOX)


def test_selected_particles_keep_their_images_poses_and_rows(project):
    _, star, expected = project
    whole = read_particles(star)
    for chosen in ([9, 2, 4], expected > 99, np.array([], int)):
        some = whole.select(chosen)
        np.testing.assert_array_equal(some.images()[:, 0, 0], expected[chosen])
        np.testing.assert_array_equal(some.rotations, whole.rotations[chosen])
        np.testing.assert_array_equal(some.shifts, whole.shifts[chosen])
        np.testing.assert_array_equal(some.row, np.arange(len(whole))[chosen])
        np.testing.assert_array_equal(some.half, whole.half[chosen])
        np.testing.assert_array_equal(
            some.ctf.coefficients(), whole.ctf.coefficients()[chosen].reshape(-1, 7)
        )


def test_what_is_written_is_read_back(project):
    _, star, _ = project
    particles = read_particles(star)
    names = [particles.stacks[s] for s in particles.stack]
    names = [f"{i + 1:06d}@{name}" for i, name in zip(particles.slice, names, strict=True)]
    write_particles(star.with_name("again.star"), particles, names)
    again = read_particles(star.with_name("again.star"))
    # Six decimals of a degree, as RELION writes: each of three angles is off by 1e-8 rad at most.
    np.testing.assert_allclose(again.rotations, particles.rotations, atol=5e-8)
    np.testing.assert_allclose(again.shifts, particles.shifts, atol=5e-7)
    for field in dataclasses.fields(CTF):
        np.testing.assert_allclose(
            getattr(again.ctf, field.name), getattr(particles.ctf, field.name), atol=5e-7
        )
    np.testing.assert_array_equal(again.half, particles.half)
    np.testing.assert_array_equal(again.slice, particles.slice)
    assert again.optics == GROUPS
    np.testing.assert_array_equal(again.optics_group, particles.optics_group)
    assert (again.pixel_size, again.box, again.notes) == (1.5, BOX, ())


def test_particles_without_ctf_or_half_sets_are_written_as_such(tmp_path):
    group = OpticsGroup("only", None, None, None, 1.5, None)
    made = make_particles(["a.mrcs"] * 4, range(4), half=[0] * 4)
    made = dataclasses.replace(
        made, ctf=None, optics=(group,), optics_group=np.zeros(4, int), box=None
    )
    write_particles(tmp_path / "p.star", made, [f"{i + 1}@a.mrcs" for i in range(4)])
    found = read_particles(tmp_path / "p.star", need_images=False)
    assert (found.ctf, found.box, found.optics) == (None, None, (group,))
    assert not found.half.any()
    with pytest.raises(InputError, match="3 image names for 4 particles"):
        write_particles(tmp_path / "p.star", made, ["1@a.mrcs"] * 3)


def test_stacks_are_looked_for_in_the_root_the_current_folder_and_above_the_file(
    project, tmp_path, monkeypatch
):
    root, star, expected = project
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    assert len(read_particles(star)) == len(expected)  # two folders above the file
    moved = star.rename(away / "moved.star")
    with pytest.raises(InputError, match=r"3 of 3 stacks \(11 of 11 images\) not found") as caught:
        read_particles(moved)
    assert re.search(r"the first is (mics/[ab]\.mrcs|c\.mrc), give the folder .*--image-root "
                     r"\(looked in .*away", str(caught.value))  # fmt: skip
    assert len(read_particles(moved, image_root=root)) == len(expected)
    monkeypatch.chdir(root)
    assert len(read_particles(moved)) == len(expected)
    # A copy of a project: what the user names goes before what lies around.
    write_stack(away / "c.mrc", np.full((4, BOX, BOX), 7.0), 1.5)
    found = read_particles(moved, image_root=root)
    np.testing.assert_array_equal(found.images()[:, 0, 0], expected)


def test_a_stack_name_that_means_two_files_is_refused(project, tmp_path, monkeypatch):
    root, star, _ = project
    moved = star.rename(root / "particles.star")
    other = tmp_path / "other"
    other.mkdir()
    write_stack(other / "c.mrc", np.zeros((4, BOX, BOX)), 1.5)
    monkeypatch.chdir(other)
    with pytest.raises(InputError, match=r"c\.mrc is found as .*other.* and as .*--image-root"):
        read_particles(moved)
    assert read_particles(moved, image_root=root).images().max() > 200


def test_absolute_names_of_another_computer_are_found_in_the_root(project):
    root, star, expected = project
    for name in COUNTS:
        edit(star, f"@{name}", f"@/data/user/{name}")
    flat = root / "flat"
    flat.mkdir()
    for name in COUNTS:
        (root / name).rename(flat / Path(name).name)
    found = read_particles(star, image_root=flat)
    np.testing.assert_array_equal(found.images()[:, 0, 0], expected)
    edit(star, "@/data/user/mics/a.mrcs", "@/data/user/other/b.mrcs")
    with pytest.raises(InputError, match=r"b\.mrcs and .*b\.mrcs both lead to"):
        read_particles(star, image_root=flat)


def test_metadata_are_read_without_any_stack(project):
    root, star, expected = project
    for name in COUNTS:
        (root / name).unlink()
    found = read_particles(star, need_images=False)
    assert (len(found), found.box) == (len(expected), BOX)
    assert {path.as_posix() for path in found.stacks} == set(COUNTS)
    with pytest.raises(InputError, match="cannot be read"):
        found.images([0])


def test_metadata_are_read_without_image_names(tmp_path):
    made = make_particles(["a.mrcs"] * 4, range(4))
    write_particles(tmp_path / "p.star", made, [f"{i + 1}@a.mrcs" for i in range(4)])
    edit(tmp_path / "p.star", "_rlnImageName", "_rlnImageOriginalName")
    found = read_particles(tmp_path / "p.star", need_images=False)
    assert (len(found), found.stacks) == (4, ())
    assert sorted(map(len, found.half_sets(0))) == sorted(np.bincount(made.half)[1:])
    with pytest.raises(InputError, match="names no images"):
        found.images()
    with pytest.raises(InputError, match="names no images"):
        read_particles(tmp_path / "p.star")


def test_the_box_is_that_of_the_stacks_where_the_table_does_not_say(project):
    _, star, _ = project
    edit(star, "_rlnImageSize", "_rlnSomethingElse")
    assert read_particles(star).box == BOX


def test_missing_defect_and_short_stacks_are_refused_by_name(project):
    root, star, _ = project
    good = (root / "c.mrc").read_bytes()
    (root / "c.mrc").write_bytes(good[:-4])
    with pytest.raises(InputError, match=r"c\.mrc: the header promises 4 images but the file ho"):
        read_particles(star)
    write_stack(root / "c.mrc", np.zeros((2, BOX, BOX)), 1.5)
    with pytest.raises(InputError, match=r"row \d+, 000004@.*c\.mrc: the stack holds 2 images$"):
        read_particles(star)
    write_stack(root / "c.mrc", np.zeros((4, BOX + 2, BOX + 2)), 1.5)
    with pytest.raises(InputError, match=r"c\.mrc: images are 14 pixels wide, 12 are expected"):
        read_particles(star)
    (root / "c.mrc").unlink()
    with pytest.raises(InputError, match=r"1 of 3 stacks \(\d of 11 images\) not found, .*c\.mrc"):
        read_particles(star)
    (root / "mics" / "b.mrcs").write_bytes(b"")
    with pytest.raises(InputError, match=r"\(and 1 more problems\)$"):
        read_particles(star)


def test_nan_pixels_are_refused_with_their_number_and_the_first_row(project):
    root, star, expected = project
    images = np.broadcast_to(np.arange(5.0)[:, None, None], (5, BOX, BOX)).copy()
    images[[1, 3], 4, 4] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        write_stack(root / "mics" / "a.mrcs", images, 1.5)
    particles = read_particles(star)
    bad = np.flatnonzero(np.isin(expected, [1, 3]))
    name = f"row {bad[0] + 1}, {int(expected[bad[0]]) + 1:06d}@.*a.mrcs"
    with pytest.raises(
        InputError, match=f"2 of 11 images contain NaN or infinite pixels, .*{name}"
    ):
        particles.images()
    # Rows are those of the file, also after a selection.
    with pytest.raises(InputError, match=f"1 of 1 images contain NaN .*{name}"):
        particles.select([bad[0]]).images()
    keep = np.setdiff1d(np.arange(11), bad)
    np.testing.assert_array_equal(particles.images(keep)[:, 0, 0], expected[keep])


@pytest.mark.parametrize("pixel_size", [0, -1.5, np.nan, np.inf])
def test_an_impossible_pixel_size_is_refused(project, pixel_size):
    with pytest.raises(InputError, match="angstrom above 0"):
        read_particles(project[1], pixel_size=pixel_size)


def test_half_sets_are_those_of_the_file(project):
    particles = read_particles(project[1])
    assert particles.has_half_sets
    first, second = particles.half_sets(0)
    assert (particles.half[first] == 1).all()
    assert (particles.half[second] == 2).all()
    assert len(first) + len(second) == len(particles)


@pytest.mark.parametrize("half", [0, 1])
def test_half_sets_are_drawn_in_equal_parts_where_the_file_has_none(half):
    made = make_particles(["a.mrcs"] * 101, range(101), half=[half] * 101)
    assert not made.has_half_sets
    first, second = made.half_sets(7)
    assert sorted([*first, *second]) == list(range(101))
    assert (len(first), len(second)) == (51, 50)
    np.testing.assert_array_equal(made.half_sets(np.random.default_rng(7))[0], first)
    assert not np.array_equal(made.half_sets(8)[0][:50], first[:50])


def test_rows_that_share_an_image_stay_in_one_half_set():
    slices = np.repeat(np.arange(30), 3)
    made = make_particles(["a.mrcs"] * 45 + ["b.mrcs"] * 45, slices, half=[0] * 90)
    first, second = made.half_sets(1)
    images = made.image_numbers()
    assert len(np.unique(images)) == 30
    assert not set(images[first]) & set(images[second])
    assert (len(first), len(second)) == (45, 45)


def test_particles_without_a_half_set_join_that_of_their_image():
    half = np.array([1, 2, 0, 0, 0, 0])
    made = make_particles(["a.mrcs"] * 6, [0, 1, 0, 1, 2, 3], half=half)
    first, second = made.half_sets(0)
    assert {0, 2} <= set(first)
    assert {1, 3} <= set(second)
    assert (len(first), len(second)) == (3, 3)


def test_rows_that_the_file_puts_in_both_half_sets_stay_where_they_are():
    made = make_particles(["a.mrcs"] * 4, [0, 0, 1, 1], half=[1, 2, 2, 1])
    first, second = made.half_sets(0)
    assert (first.tolist(), second.tolist()) == ([0, 3], [1, 2])


def test_one_image_makes_no_two_half_sets():
    made = make_particles(["a.mrcs"] * 3, [2, 2, 2], half=[0] * 3)
    with pytest.raises(InputError, match="two different images"):
        made.half_sets(0)


def test_repeated_images_are_noted_and_worse_so_in_both_half_sets(tmp_path):
    made = make_particles(["a.mrcs"] * 4, range(4), half=[1, 2, 1, 1])
    names = ["1@a.mrcs", "1@./a.mrcs", "2@a.mrcs", "2@a.mrcs"]
    write_particles(tmp_path / "p.star", made, names)
    notes = read_particles(tmp_path / "p.star", need_images=False).notes
    assert notes == (
        "rows that repeat the image of another row: 2",
        "images in both half-sets, which makes the FSC too high: 1",
    )


def test_real_particles_are_read_with_their_images(shared_data):
    particles = read_particles(shared_data("betagal", "particles.star"))
    assert (len(particles), particles.box, particles.pixel_size) == (506, 64, 3.54)
    assert [(particles.half == h).sum() for h in (1, 2)] == [244, 262]
    assert particles.notes == ()
    images = particles.images(np.arange(0, 506, 5))
    # RELION normalises the background to mean 0 and standard deviation 1.
    assert abs(images.mean()) < 0.1
    assert 0.9 < images.std() < 1.2


def test_relion_projections_of_a_point_fit_the_conventions(shared_data, tmp_path):
    # One voxel at r from the centre: exp(-2 pi i k.(A r - origin)) times the CTF is what RELION
    # projected, so a wrong sign or a transposed rotation in what was read destroys the likeness.
    folder = shared_data("relion-projections", "simplecryoem_relion_proj_batch.star").parent
    stack = folder / "simplecryoem_relion_proj_batch.mrcs"
    (tmp_path / "relion_proj_batch.mrcs").write_bytes(stack.read_bytes())
    particles = read_particles(folder / "simplecryoem_relion_proj_batch.star", image_root=tmp_path)
    assert len(particles) == 24
    volume, _ = read_map(folder / "simplecryoem_pointmass.mrc")
    z, y, x = np.unravel_index(volume.argmax(), volume.shape)
    point = np.array([x, y, z]) - particles.box // 2
    where = particles.rotations @ point
    frequency = np.fft.fftfreq(particles.box)
    ky, kx = np.meshgrid(frequency, frequency, indexing="ij")
    ctf = particles.ctf.evaluate(kx / particles.pixel_size, ky / particles.pixel_size)
    disc = np.hypot(kx, ky) < 0.5
    data = np.fft.fft2(np.fft.ifftshift(particles.images(), axes=(1, 2)))
    for i in range(len(particles)):
        x, y = where[i, :2] - particles.shifts[i] / particles.pixel_size
        model = np.exp(-2j * np.pi * (kx * x + ky * y)) * ctf[i]
        likeness = np.vdot(model[disc], data[i][disc]).real / (
            np.linalg.norm(model[disc]) * np.linalg.norm(data[i][disc])
        )
        assert likeness > 0.94


@pytest.mark.parametrize(
    ("name", "count", "pixel_size"),
    [
        ("ctf-extras/particles.star", 20, 2.0),
        ("gaussians/particles.star", 100, 2.0),
        ("rln_proj_64_centered.star", 4, 1.0),
        ("rln_proj_64_shifted.star", 4, 1.0),
        ("simplecryoem_pyem.star", 24, 3.54),
        ("simplecryoem_pyem_onerow.star", 1, 3.54),
        ("simplecryoem_relion_proj_batch_pfac2.star", 24, 3.54),
        ("simplecryoem_relion_proj_batch_pfac3.star", 24, 3.54),
    ],
)
def test_metadata_of_relion_projections_are_read(shared_data, name, count, pixel_size):
    found = read_particles(shared_data("relion-projections", name), need_images=False)
    assert (len(found), found.box, found.pixel_size) == (count, 64, pixel_size)


def test_a_file_without_pixel_size_is_read_with_that_of_the_user(shared_data):
    star = shared_data("relion-projections", "rln_proj_64.star")
    with pytest.raises(InputError, match="give it by --angpix"):
        read_particles(star)
    found = read_particles(star, pixel_size=5.0)
    assert (len(found), found.pixel_size, found.box, found.ctf) == (5, 5.0, 64, None)
    assert found.images().std() > 0


@pytest.mark.parametrize(
    ("name", "stacks", "message"),
    [
        ("cryodrgn_relion31.star", ("relion31.mrcs",), None),
        ("cryodrgn_relion31.v2.star", ("relion31.mrcs",), None),
        ("cryodrgn_sta_testing_bin8.star",
         ("ay19102021_L3_position6_ribo_it09_bin8_1.82A.mrcs",), None),
        ("drgnai_M_particles_sub10.star", ("00256_Ribosomes_1.70A.mrcs",),
         "00256_Ribosomes_1.70A.mrcs: the header promises 11029 images but the file holds 1"),
        ("iospi_test.star", (), r"6 of 6 stacks \(452 of 452 images\) not found"),
    ],
)  # fmt: skip
def test_images_of_the_zoo_are_read_or_refused(shared_data, name, stacks, message):
    star = shared_data("reader-zoo", "star", name)
    root = shared_data("reader-zoo", "mrc")
    if message:
        with pytest.raises(InputError, match=message):
            read_particles(star, image_root=root)
        return
    particles = read_particles(star, image_root=root)
    assert [path.name for path in particles.stacks] == list(stacks)
    assert particles.images().shape[0] == len(particles)


def test_names_without_a_number_are_files_of_one_image(project):
    root, project, _ = project
    image = np.arange(BOX * BOX, dtype=np.float32).reshape(1, BOX, BOX)
    write_stack(root / "single.mrc", image, 1.5)
    particles = make_particles(["c.mrc", "single.mrc"], [2, 0])
    write_particles(project, particles, ["000003@c.mrc", "single.mrc"])
    found = read_particles(project)
    np.testing.assert_array_equal(found.slice, [2, 0])
    np.testing.assert_array_equal(found.images()[1], image[0])
    write_particles(project, particles, ["000003@c.mrc", "mics/a.mrcs"])
    with pytest.raises(InputError, match=r"row 2 names .*a.mrcs without the number of an image"):
        read_particles(project)

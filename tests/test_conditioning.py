"""Condition numbers and spectra against dense matrices."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from fastcryo import conditioning
from fastcryo.cli import main
from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.particles import read_particles
from fastcryo.problem import KnownPoseProblem
from fastcryo.threads import use_threads

from . import naive

BOX, RADIUS, PRIOR = 12, 5, 0.01


@pytest.fixture(autouse=True)
def one_thread():
    """Small problems: waking a second thread costs more than it brings."""
    with use_threads(1):
        yield


def views(count=40, seed=0):
    return naive.random_rotations(count, np.random.default_rng(seed))


def build(rotations, box=BOX, **options):
    options = {"dtype": "float64", "regularization": PRIOR, **options}
    return KnownPoseProblem.from_arrays(None, rotations, 3.0, N=box, **options)


@pytest.fixture(scope="module")
def problem():
    return build(views())


@pytest.fixture(scope="module")
def dense():
    """H on the full grid, and |k|."""
    matrix = naive.hessian(BOX, views(), RADIUS, "trilinear", np.ones((40, BOX, BOX)))
    matrix[np.diag_indices(BOX**3)] += PRIOR
    return matrix


def distances(box=BOX):
    f = np.rint(np.fft.fftfreq(box) * box)
    return np.sqrt(f[:, None, None] ** 2 + f[:, None] ** 2 + f**2)


def block(matrix, radius, preconditioner):
    """The scaled matrix on |k| <= radius."""
    scale = {
        None: np.ones(len(matrix)),
        "exact": np.diag(matrix),
        "gridding": matrix.sum(axis=1),
    }[preconditioner]
    inside = distances().ravel() <= radius
    root = scale[inside] ** -0.5
    return root[:, None] * matrix[np.ix_(inside, inside)] * root


@pytest.mark.parametrize("radius", [2, RADIUS])
@pytest.mark.parametrize("preconditioner", [None, "exact", "gridding"])
def test_extreme_eigenvalues_are_those_of_the_dense_matrix(problem, dense, preconditioner, radius):
    expected = np.linalg.eigvalsh(block(dense, radius, preconditioner))
    found = conditioning.extreme_eigenvalues(problem, preconditioner, radius, tolerance=1e-4)
    assert found.converged
    # A Ritz value is off by at most its residual, and lies within the spectrum.
    assert -1e-12 <= found.smallest - expected[0] <= max(found.smallest_residual, 1e-12)
    assert -1e-12 <= expected[-1] - found.largest <= max(found.largest_residual, 1e-12)
    assert found.smallest_residual <= 1e-4 * found.smallest
    low, high = found.condition_range
    assert low <= expected[-1] / expected[0] <= high
    assert high / low < 1.001


def test_the_worst_volume_is_the_eigenvector(problem):
    found = conditioning.extreme_eigenvalues(problem, None, 4, tolerance=1e-4)
    product = problem.hvp(found.worst) * (problem.grid.shells() < 5)
    inside = np.abs(found.worst) > 0
    off = (product - found.smallest * found.worst)[inside]
    assert np.linalg.norm(off) < 2e-4 * found.smallest * np.linalg.norm(found.worst)


def test_an_eigenvalue_that_does_not_converge_says_so(problem):
    found = conditioning.extreme_eigenvalues(problem, "exact", max_products=10)
    assert not found.converged
    assert found.smallest_residual > 0.01 * found.smallest
    low, high = found.condition_range
    assert low < found.condition_number < high


def test_scaling_by_either_diagonal_bounds_what_the_resolution_makes_worse():
    # 27 for even views whatever the radius (DESIGN, section 3), a continuum limit: 20 to 30 here.
    rotations = views(3000, seed=1)
    problem = build(rotations, box=24, regularization=1e-8, dtype="float32")
    operator = problem.normal_operator()
    for name in ("exact", "gridding"):
        by_radius = conditioning.kappa_by_resolution(problem, name, [5, 10], operator=operator)
        kappas = [entry.eigenvalues.condition_number for entry in by_radius]
        assert all(20 < kappa < 30 for kappa in kappas)
        assert [entry.resolution for entry in by_radius] == [72 / 5, 72 / 10]
    plain = conditioning.kappa_by_resolution(problem, None, [5, 10], operator=operator)
    assert plain[1].eigenvalues.condition_number > 250
    assert plain[1].eigenvalues.condition_number > 1.5 * plain[0].eigenvalues.condition_number


def test_radius_one_is_a_matrix_of_seven_voxels(problem, dense):
    expected = np.linalg.eigvalsh(block(dense, 1, "exact"))
    found = conditioning.extreme_eigenvalues(problem, "exact", 1)
    assert found.condition_number == pytest.approx(expected[-1] / expected[0], rel=1e-10)


def test_spectral_density_holds_the_dense_eigenvalues_within_its_band(problem, dense):
    expected = np.log10(np.linalg.eigvalsh(block(dense, RADIUS, "exact")))
    found = conditioning.spectral_density(problem, "exact", probes=40, steps=60, seed=1)
    places = np.log10(found.values)
    spacing = places[1] - places[0]
    assert found.density.sum() * spacing == pytest.approx(1, abs=1e-3)
    assert found.below[-1] == pytest.approx(1, abs=1e-4)
    assert (np.diff(found.below) >= 0).all()
    kernel = found.kernel
    smooth = np.exp(-0.5 * ((places[:, None] - expected) / kernel) ** 2).sum(axis=1)
    smooth /= len(expected) * kernel * np.sqrt(2 * np.pi)
    off = np.abs(found.density - smooth)
    # 4 standard errors of 40 probes: 1e-4 by chance; the quadrature itself is exact to 1e-6.
    inside = smooth > 0.01 * smooth.max()
    assert (off <= 4 * found.error + 1e-3 * smooth.max())[inside].all()
    assert np.median(found.error[inside] / smooth[inside]) < 0.1


def test_bound_counts_the_points():
    k = np.arange(-7, 8)
    disc = np.count_nonzero(k[:, None] ** 2 + k**2 <= 49)
    ball = np.count_nonzero(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2 <= 49)
    p = disc / ball
    assert conditioning.lower_bound(100, 7) == pytest.approx(1 / p, rel=1e-14)
    assert conditioning.lower_bound(100, 7, 3.0) == pytest.approx(103 / (100 * p + 3), rel=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 7), r"^n: 0 images given"),
        ((3, 7), r"^n: 3 images cannot cover a ball of radius 7, at least 10 are needed"),
        ((30, 0), r"^radius: 0 given"),
        ((30, 7, -1.0), r"^regularization: -1.0 must be"),
        ((30, 7, np.nan), r"^regularization: nan must be"),
    ],
)
def test_bound_refuses_what_it_does_not_hold_for(arguments, message):
    with pytest.raises(InputError, match=message):
        conditioning.lower_bound(*arguments)


@pytest.mark.parametrize("interpolation", ["nearest", "trilinear"])
def test_condition_by_radius_counts_the_nearest_voxels(interpolation):
    rotations = views(300, seed=4)
    data = CTF(defocus_u=12000.0, defocus_v=12500.0, defocus_angle=20.0)
    problem = KnownPoseProblem.from_arrays(
        None, rotations, 3.0, data, N=BOX, dtype="float64",
        regularization=PRIOR, interpolation=interpolation,
    )  # fmt: skip
    h, k = naive.frequencies(BOX)
    length = BOX * 3.0
    power = np.broadcast_to(
        naive.ctf(h / length, k / length, 12000.0, 12500.0, 20.0) ** 2, (300, BOX, BOX)
    )
    found = conditioning.condition_number_by_radius(problem)
    for values, weights in ((found.without_ctf, np.ones_like(power)), (found.with_ctf, power)):
        diagonal = naive.adjoint(weights, rotations, RADIUS, "nearest").real / 300 + PRIOR
        for radius, value in zip(found.radius, values, strict=True):
            inside = diagonal[distances() <= radius]
            assert value == pytest.approx(inside.max() / inside.min(), rel=1e-12)
    assert list(found.radius) == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(found.resolution, 36 / found.radius)
    assert found.bound[4] == conditioning.lower_bound(300, 5, 300 * PRIOR)
    assert (found.bound <= found.without_ctf).all()
    assert found.note == ""


def test_voxels_that_no_image_sees_make_it_infinite_and_are_named():
    # One view along z: every voxel off the plane z = 0 is left out.
    rotations = np.eye(3)[None]
    problem = build(rotations, interpolation="nearest", regularization=0.0)
    found = conditioning.condition_number_by_radius(problem)
    assert np.isinf(found.with_ctf).all()
    assert np.isinf(found.bound).all()
    ball = distances() <= RADIUS
    plane = np.zeros_like(ball)
    plane[0] = True
    unseen = np.count_nonzero(ball & ~plane)
    assert found.uncovered[-1] == unseen
    assert f"no image sees {unseen} voxels and lambda is 0" in found.note
    assert "(0, 0, 1), |k| = 1.0" in found.note
    for interpolation in ("nearest", "trilinear"):
        problem = build(rotations, interpolation=interpolation, regularization=0.0)
        ends = conditioning.extreme_eigenvalues(problem, "exact")
        assert ends.smallest == 0
        assert np.isinf(ends.condition_number)
        assert np.isinf(ends.condition_range).all()
        assert ends.largest > 0
        assert "the innermost is (kx, ky, kz) = (0, 0, 1)" in ends.note
    # With lambda the same voxels have kappa (1 + lambda) / lambda.
    damped = build(rotations, interpolation="nearest", regularization=0.01)
    ends = conditioning.extreme_eigenvalues(damped)
    assert ends.condition_number == pytest.approx(101, rel=1e-3)
    assert ends.note == ""


def test_missing_cone_is_the_worst_direction():
    rng = np.random.default_rng(3)
    rotations = np.array(
        [naive.euler_matrix(rng.uniform(0, 360), rng.uniform(0, 30), a) for a in range(0, 360, 3)]
    )
    problem = build(rotations, box=16, regularization=1e-4)
    ends = conditioning.extreme_eigenvalues(problem, radius=6)
    found = conditioning.worst_directions(problem, ends.worst)
    # Slices near the plane z = 0 leave out a cone about z.
    assert abs(found.direction[2]) > 0.95
    assert found.moments[2] > 0.6
    assert abs(found.thinnest[2]) > 0.5
    assert found.thinness < 0.1
    assert found.shares.sum() == pytest.approx(1)
    assert found.shell == np.argmax(found.shares)


def test_steepest_descent_goes_at_the_predicted_rate(problem):
    ends = conditioning.extreme_eigenvalues(problem, "exact", 3, tolerance=1e-3)
    predicted = conditioning.predicted_rate(ends.condition_number)
    observed = conditioning.observed_rate(problem, ends, "exact", 3, iterations=400)
    # The worst directions are left after some tens of kappa iterations; kappa is below 30.
    assert observed == pytest.approx(predicted, abs=2e-3)
    assert conditioning.observed_rate(problem, ends, "exact", 3, iterations=4) < observed
    assert conditioning.predicted_rate(3.0) == 0.5
    assert conditioning.predicted_rate(np.inf) == 1.0


def test_variance_of_the_batch_gradient_is_that_of_the_definition():
    data = naive.data_set(BOX, count=12, seed=2)
    problem = KnownPoseProblem.from_arrays(
        data.images, data.rotations, 3.0, CTF(**data.ctf), dtype="float64", regularization=PRIOR
    )
    volume = problem.grid.zeros(complex)
    found = conditioning.gradient_variance_by_shell(
        problem, volume, 3, preconditioner="exact", batches=4000
    )
    single = np.array([problem.loss_and_gradient(volume, [i])[1] for i in range(12)])
    single /= problem.hessian_diagonal()
    spread = (np.abs(single - single.mean(axis=0)) ** 2).sum(axis=0) / 11
    # Batches of 3 of 12 drawn without replacement.
    expected = spread / 3 * (1 - 3 / 12)
    ball = problem.grid.ball()
    expected = problem.grid.shell_sums(expected * ball) / problem.grid.shell_sums(ball)
    # 4000 batches: 2 % at the origin, less in the shells of many voxels.
    np.testing.assert_allclose(found, expected, rtol=0.08)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: conditioning.extreme_eigenvalues(p, radius=6), r"^radius: 6 holds no samples"),
        (lambda p: conditioning.extreme_eigenvalues(p, radius=0), r"^radius: 0 holds no samples"),
        (lambda p: conditioning.extreme_eigenvalues(p, radius=1.5), r"^radius: 1.5 holds no"),
        (lambda p: conditioning.extreme_eigenvalues(p, tolerance=0), r"^tolerance: 0 must lie"),
        (lambda p: conditioning.extreme_eigenvalues(p, "none"), r"^preconditioner: 'none' is"),
        (lambda p: conditioning.spectral_density(p, probes=1), r"^probes, steps: 1 and 60 given"),
        (lambda p: conditioning.predicted_rate(0.5), r"^condition_number: 0.5 given"),
        (
            lambda p: conditioning.extreme_eigenvalues(p, np.zeros(p.grid.shape)),
            r"^preconditioner: \d+ of its values within the radius are zero",
        ),
        (
            lambda p: conditioning.worst_directions(p, p.grid.zeros()),
            r"^worst: the volume is zero",
        ),
        (
            lambda p: conditioning.gradient_variance_by_shell(p, p.grid.zeros(), 41),
            r"^batch_size: 41 must lie between 1 and 40",
        ),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_by_name(problem, call, message):
    with pytest.raises(InputError, match=message):
        call(problem)


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    """Particles whose images are gone: metadata must do."""
    folder = tmp_path_factory.mktemp("metadata") / "set"
    command = f"simulate {folder} --box 24 --count 150 --angpix 4 --orientations preferred"
    assert main(command.split()) == 0
    (folder / "particles.mrcs").unlink()
    return folder / "particles.star"


def refused(capsys, *words):
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("error: ")
    assert "\n" not in line
    return line


def test_condition_writes_tables_and_picture_and_says_what_follows(star, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["condition", str(star), "--image-size", "24", "--out", str(out)]) == 0
    names = {"conditioning.json", "conditioning.csv", "conditioning.png"}
    assert {path.name for path in out.iterdir()} == names
    said = capsys.readouterr().out
    for words in ("what limits it is", "--solver cg", "--epochs", "along rot"):
        assert words in said
    record = json.loads((out / "conditioning.json").read_text())
    assert record["images"] == 150
    assert record["command"].startswith("fastcryo condition")
    for entry in (e for entries in record["eigenvalues"].values() for e in entries):
        assert entry["smallest_residual"] >= 0
        assert entry["predicted_rate"] <= 1
        low, high = entry["condition_number_range"]
        assert low <= entry["condition_number"]
        assert high is None or high >= entry["condition_number"]
    with (out / "conditioning.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 11
    assert float(rows[-1]["resolution_A"]) == pytest.approx(96 / 11, rel=1e-5)
    assert float(rows[-1]["bound"]) <= float(rows[-1]["nearest_without_ctf"])
    assert float(rows[-1]["kappa_exact"]) < float(rows[-1]["kappa_none"])
    assert rows[0]["kappa_exact_prior"] == ""
    # The full-size table agrees with that of the problem in one piece.
    particles = dataclasses.replace(read_particles(star, need_images=False), box=24)
    problem = KnownPoseProblem.from_particles(particles, metadata_only=True)
    expected = conditioning.condition_number_by_radius(problem)
    found = [float(row["nearest_with_ctf"]) for row in rows]
    np.testing.assert_allclose(found, expected.with_ctf, rtol=1e-5)
    before = (out / "conditioning.json").read_bytes()
    line = refused(capsys, "condition", star, "--image-size", 24, "--out", out)
    assert "already holds conditioning.json" in line
    assert (out / "conditioning.json").read_bytes() == before


def test_condition_without_prior_reports_infinity_and_where(star, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["condition", str(star), "--image-size", "24", "--out", str(out)]
    assert main([*command, "--regularization", "0", "--interpolation", "nearest"]) == 0
    said = capsys.readouterr().out
    assert "infinite" in said
    assert "voxels and lambda is 0" in said
    assert "(kx, ky, kz)" in said
    record = json.loads((out / "conditioning.json").read_text())
    assert "are fewer than" not in said
    assert record["nearest"]["with_ctf"][-1] is None
    assert record["eigenvalues"]["none"][-1]["condition_number"] is None


def test_too_few_images_for_any_cover_are_said_to_be(tmp_path, capsys):
    folder, out = tmp_path / "set", tmp_path / "out"
    assert main(f"simulate {folder} --box 24 --count 4 --angpix 4".split()) == 0
    command = ["condition", str(folder / "particles.star"), "--out", str(out), "--box", "16"]
    assert main([*command, "--regularization", "0"]) == 0
    disc = np.count_nonzero(distances(24)[0] <= 11)
    least = int(np.ceil(np.count_nonzero(distances(24) <= 11) / disc))
    said = capsys.readouterr().out
    assert f"4 images are fewer than the {least} that it takes at least" in said
    assert json.loads((out / "conditioning.json").read_text())["nearest"]["bound"][-1] is None


CPU = ("--backend", "cpu")  # of which nothing is said


def test_condition_refuses_what_it_cannot_use(star, tmp_path, capsys):
    out = tmp_path / "out"
    line = refused(capsys, "condition", star, "--image-size", 24, "--out", out, "--maxres", 500)
    assert "resolution: 500 angstrom leaves no samples but the origin, give at most 96" in line
    line = refused(capsys, "condition", star, "--image-size", 24, "--out", out, "--box", 32, *CPU)
    assert "larger than the images" in line
    with pytest.raises(SystemExit, match="2"):
        main(["condition", str(star), "--out", str(out), "--regularization", "-1"])
    assert "argument --regularization: -1 must be 0 or more" in capsys.readouterr().err
    assert not list(out.glob("conditioning*"))

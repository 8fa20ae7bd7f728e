"""Point groups, and problems whose map has their symmetry."""

import numpy as np
import pytest

from fastcryo.ctf import CTF
from fastcryo.errors import InputError
from fastcryo.normal import real_coordinates
from fastcryo.preconditioner import hutchinson_diagonal
from fastcryo.problem import KnownPoseProblem
from fastcryo.radial import condition_number_by_radius
from fastcryo.solvers import conjugate_gradient
from fastcryo.symmetry import replicated, symmetry_matrices

from . import naive

ORDERS = {"C1": 1, "C7": 7, "D2": 4, "D5": 10, "T": 12, "O": 24, "I": 60}
ORDERS |= {f"I{number}": 60 for number in (1, 2, 3, 4)}
GOLDEN = (1 + 5**0.5) / 2


def turn(order, axis):
    """Rodrigues' formula."""
    x, y, z = np.array(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = 2 * np.pi / order
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def holds(group, matrix):
    return np.abs(group - matrix).max(axis=(1, 2)).min() < 1e-6


@pytest.mark.parametrize("name", ORDERS)
def test_groups_are_complete_and_begin_with_the_identity(name):
    group = symmetry_matrices(name)
    assert len(group) == ORDERS[name]
    np.testing.assert_array_equal(group[0], np.eye(3))
    np.testing.assert_allclose(np.linalg.det(group), 1)
    np.testing.assert_allclose(
        group @ group.transpose(0, 2, 1), np.tile(np.eye(3), (len(group), 1, 1)), atol=1e-15
    )
    products = (group[:, None] @ group[None]).reshape(-1, 3, 3)
    off = np.abs(products[:, None] - group[None]).max(axis=(2, 3)).min(axis=1)
    assert off.max() < 1e-12
    distances = np.abs(group[:, None] - group[None]).max(axis=(2, 3)) + np.eye(len(group))
    assert distances.min() > 0.01


# What relion_refine --print_symmetry_ops prints comes from these axes, to 6 digits or more.
@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("C4", [(4, (0, 0, 1))]),
        ("d3", [(3, (0, 0, 1)), (2, (1, 0, 0))]),
        ("T", [(3, (0, 0, 1)), (2, (0, 0.816496, 0.577350))]),
        ("O", [(3, (1, 1, 1)), (4, (0, 0, 1)), (4, (1, 0, 0))]),
        (
            "I1",
            [
                (2, (1, 0, 0)),
                (5, (0.850650807, 0, -0.525731114)),
                (3, (0.934172364, 0.356822076, 0)),
            ],
        ),
        (
            "I2",
            [
                (2, (0, 0, 1)),
                (5, (0.525731114, 0, 0.850650807)),
                (3, (0, 0.356822076, 0.934172364)),
            ],
        ),
        (
            "I3",
            [
                (2, (-0.525731114, 0, 0.850650807)),
                (5, (0, 0, 1)),
                (3, (-0.491123478, 0.356822076, 0.794654475)),
            ],
        ),
        (
            "I4",
            [
                (2, (0.525731114, 0, 0.850650807)),
                (5, (0.894427195, 0, 0.447213591)),
                (3, (0.491123478, 0.356822076, 0.794654475)),
            ],
        ),
    ],
)
def test_axes_are_those_of_relion(name, axes):
    group = symmetry_matrices(name)
    for order, axis in axes:
        assert holds(group, turn(order, axis)), (order, axis)


def test_i_is_i2_and_differs_from_the_other_settings():
    i2 = symmetry_matrices("I2")
    np.testing.assert_array_equal(symmetry_matrices("I"), i2)
    for other in ("I1", "I3", "I4"):
        assert not all(holds(i2, matrix) for matrix in symmetry_matrices(other))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("C0", "unknown"),
        ("Q2", "unknown"),
        ("C101", "unknown"),
        ("TD", "mirrors"),
        ("C2v", "mirrors"),
        ("OH", "mirrors"),
        ("I1H", "mirrors"),
    ],
)
def test_other_names_are_refused(name, words):
    with pytest.raises(InputError, match=words):
        symmetry_matrices(name)


def both(symmetry="O", interpolation="trilinear", box=12, **options):
    """A problem with symmetry, and the one whose images are copied instead."""
    data = naive.data_set(box, "ties" if interpolation == "trilinear" else "quarter")
    group = symmetry_matrices(symmetry)
    count = len(data.rotations)
    copies = np.tile(np.arange(count), len(group))
    views = replicated(data.rotations, group).reshape(-1, 3, 3)
    options = {"dtype": "float64", "interpolation": interpolation, "regularization": 0.03} | options
    ctf = CTF(**data.ctf)
    ours = KnownPoseProblem.from_arrays(
        data.images, data.rotations, data.pixel_size, ctf, data.shifts, symmetry=symmetry, **options
    )
    copied = KnownPoseProblem.from_arrays(
        data.images[copies],
        views,
        data.pixel_size,
        ctf.select(copies),
        data.shifts[copies],
        **options,
    )
    return ours, copied, copies


def random_half(grid, seed=2):
    return grid.from_real(np.random.default_rng(seed).normal(size=(grid.box,) * 3))


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


# I1 sends the special views of the nearest voxel to ties, which rounding decides.
@pytest.mark.parametrize(
    ("symmetry", "interpolation"), [("D2", "trilinear"), ("I1", "trilinear"), ("D2", "nearest")]
)
def test_symmetric_views_equal_copied_images(symmetry, interpolation):
    ours, copied, copies = both(symmetry, interpolation)
    volume, direction = random_half(ours.grid), random_half(ours.grid, 3)
    loss, gradient = ours.loss_and_gradient(volume)
    expected_loss, expected = copied.loss_and_gradient(volume)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    close(gradient, expected)
    batch = np.array([4, 1, 7])
    in_copies = np.flatnonzero(np.isin(copies, batch))
    assert ours.loss(volume, batch) == pytest.approx(copied.loss(volume, in_copies), rel=1e-12)
    close(ours.hvp(direction, batch), copied.hvp(direction, in_copies))
    close(ours.hessian_diagonal(batch), copied.hessian_diagonal(in_copies))
    close(ours.gridding_weight(), copied.gridding_weight())
    curvature = ours.loss_and_curvature(volume, direction, batch)
    assert curvature == pytest.approx(copied.loss_and_curvature(volume, direction, in_copies))
    assert ours.curvature(direction) == pytest.approx(copied.curvature(direction))
    fused = ours.loss_gradient_and_product(volume, direction.real)
    close(fused[2], copied.hvp(direction.real.astype(direction.dtype)))
    operator, other = ours.normal_operator(), copied.normal_operator()
    close(operator.matvec(direction), other.matvec(direction))
    close(operator.diagonal(), ours.hessian_diagonal())


def test_condition_and_probes_agree_with_copied_images():
    ours, copied, _ = both("D2")
    mine, theirs = condition_number_by_radius(ours), condition_number_by_radius(copied)
    np.testing.assert_allclose(mine.with_ctf, theirs.with_ctf)
    np.testing.assert_allclose(mine.without_ctf, theirs.without_ctf)
    np.testing.assert_allclose(mine.bound, theirs.bound)
    probed = hutchinson_diagonal(ours, probes=1, probing="coloured", rng=0)
    close(probed, ours.hessian_diagonal())


def test_the_gradient_is_that_of_finite_differences():
    ours, _, _ = both("I3")
    volume, direction = random_half(ours.grid), random_half(ours.grid, 5)
    gradient = ours.loss_and_gradient(volume)[1]
    step = 1e-4
    slope = (ours.loss(volume + step * direction) - ours.loss(volume - step * direction)) / (
        2 * step
    )
    assert slope == pytest.approx(ours.grid.inner(gradient, direction), rel=1e-7)


def test_the_normal_operator_is_symmetric():
    ours, _, _ = both("D3")
    operator = ours.normal_operator().as_linear_operator(real_coordinates(ours.grid))
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, operator.shape[0]))
    assert a @ operator.matvec(b) == pytest.approx(b @ operator.matvec(a))


@pytest.mark.parametrize(("symmetry", "box"), [("D2", 12), ("O", 13), ("C4", 12)])
def test_maps_are_symmetric_to_rounding(symmetry, box):
    """Rotations that permute the axes map voxels on voxels."""
    ours, _, _ = both(symmetry, box=box)
    solved = conjugate_gradient(ours, ours.hessian_diagonal(), 1e-10, 60).volume
    density = ours.to_map(solved)
    # An even box has no mirror of its first plane.
    low = 1 - box % 2
    centred = density[low:, low:, low:]
    x = np.arange(len(centred)) - len(centred) // 2
    points = np.stack(np.meshgrid(x, x, x, indexing="ij")[::-1], axis=-1)
    for matrix in symmetry_matrices(symmetry)[1:]:
        turned = np.rint(points @ matrix.T).astype(int) + len(centred) // 2
        moved = centred[turned[..., 2], turned[..., 1], turned[..., 0]]
        assert np.abs(moved - centred).max() < 1e-9 * np.abs(centred).max()
    asymmetric = centred[:, :, ::-1]
    assert np.abs(asymmetric - centred).max() > 0.1 * np.abs(centred).max()

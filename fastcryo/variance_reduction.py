"""SVRG: minibatch gradients whose noise vanishes at the minimiser."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fastcryo.arrays import add_to, copy_of, difference, fetch
from fastcryo.normal import NormalOperator
from fastcryo.operators import SliceOperator
from fastcryo.problem import KnownPoseProblem
from fastcryo.rotations import random_rotations

VARIANCE_REDUCTIONS = ("svrg",)
# A voxel lies less than two shells from the samples that touch it.
REACH = 2
VIEWS = 16
IMAGES_AT_ONCE = 256


@dataclass(eq=False)
class ControlVariate:
    """The gradient of all images at a reference, from which those of minibatches are corrected.

    f is quadratic, so grad f_I(V) - grad f_I(V_ref) = H_I (V - V_ref), and

        g = H_I (V - V_ref) + grad f(V_ref)

    has the mean grad f(V) and no noise but that of H_I - H, which fades as V comes to rest: the
    noise of the images, which a minibatch gradient carries at the minimiser too, is averaged over
    all of them. A step reads poses and CTFs, not the images.

    Make one with `start`, and renew the reference with `refresh`.

    Attributes
    ----------
    problem : KnownPoseProblem
    operator : NormalOperator or None
        H assembled: a new reference costs one product with it. None: a pass through all images.
    right : ndarray, half grid, or None
        b, where H is assembled.
    constant : float
        f(0), where H is assembled.
    reference, gradient : ndarray, half grid
        V_ref and grad f(V_ref).
    loss : float
        f(V_ref).

    References
    ----------
    Johnson & Zhang, Adv. Neural Inf. Process. Syst. 26 (2013) 315.
    """

    problem: KnownPoseProblem
    operator: NormalOperator | None
    right: NDArray | None = field(default=None, repr=False)
    constant: float = 0.0
    reference: NDArray = field(default=None, repr=False)
    gradient: NDArray = field(default=None, repr=False)
    loss: float = 0.0

    @classmethod
    def start(
        cls, problem: KnownPoseProblem, operator: NormalOperator | None, volume: NDArray
    ) -> ControlVariate:
        """Return the control variate with a half grid as its reference."""
        assembled = operator if operator is not None and operator.assembled else None
        made = cls(problem, assembled)
        if assembled is not None:
            zero = problem.grid.zeros(problem.operator.dtype)
            made.constant, gradient = problem.loss_and_gradient(zero)
            made.right = problem.operator.place(np.negative(gradient, out=gradient))
        made.refresh(volume)
        return made

    def refresh(self, volume: NDArray) -> float:
        """Make a half grid the reference, and return f there."""
        self.reference = copy_of(volume)
        if self.operator is None:
            self.loss, self.gradient = self.problem.loss_and_gradient(volume)
            return self.loss
        product = self.problem.operator.place(self.operator.matvec(fetch(volume)))
        self.gradient = difference(product, self.right)
        # f(V) = f(0) + 1/2 <V, H V> - <b, V> = f(0) + 1/2 <V, grad f(V) - b>.
        inner = self.problem.grid.inner
        self.loss = self.constant + 0.5 * (inner(volume, self.gradient) - inner(volume, self.right))
        return self.loss

    def loss_and_gradient(
        self, volume: NDArray, batch: NDArray[np.int64], out: NDArray | None = None
    ) -> tuple[float, NDArray]:
        """Return the corrected loss of a minibatch and g, its gradient.

        The loss, f(V_ref) + <grad f(V_ref), u> + 1/2 <u, H_I u> with u = V - V_ref, is the batch's
        own up to a function linear in V; its mean over batches is f(V).
        """
        offset = difference(volume, self.reference)
        return self._corrected(offset, self.problem.hvp(offset, batch, out))

    def loss_gradient_and_product(
        self,
        volume: NDArray,
        direction: NDArray,
        batch: NDArray[np.int64],
        out: tuple[NDArray, NDArray],
    ) -> tuple[float, NDArray, NDArray]:
        """Return what `loss_and_gradient` does and H_I times a real `direction`, from one pass."""
        offset = difference(volume, self.reference)
        product, other = self.problem.products(offset, direction, batch, out)
        return *self._corrected(offset, product), other

    def _corrected(self, offset: NDArray, product: NDArray) -> tuple[float, NDArray]:
        """Return the loss of a minibatch at an offset u, and g in place of H_I u."""
        inner = self.problem.grid.inner
        loss = self.loss + inner(self.gradient, offset) + 0.5 * inner(offset, product)
        add_to(product, self.gradient)
        return loss, product


def batch_spread(problem: KnownPoseProblem, batch_size: int) -> NDArray:
    """Return tau, what steps along minibatches need on top of the gridding weight rho.

    A voxel that few images see gets much more than its mean from a batch that holds one of them:
    rho_I exceeds rho by up to n/m, and steps that are safe for H diverge. With batches of m of n
    images, drawn without replacement, and q(k) >= rho_i(k), the most that one image adds,

        tau = (n - m) / (m (n - 1)) q.

    Let A_I = D^(-1/2) H_I D^(-1/2), D = rho + tau, and A its mean. Then H_i <= diag rho_i gives
    A_i <= m (n - 1) / (n - m), so that E A_I^2 <= A^2 + A and E (1 - eta A_I)^2 <= 1 for every eta
    up to 1: the noise of the Hessian never grows, whatever the views and the batches. With all
    images tau is 0, and any step below 2 is safe.

    q is the shell's largest C^2/sigma^2 times the largest sum of one image's window weights over a
    voxel (1.3 for trilinear, up to 3 for nearest), measured on some of the views. Slices of an
    oversampled window are those of the map itself, and P P^H is a convolution with the transform
    of the box seen from that view, or of m^2: the thickness of that, over N, takes the place of the
    sum (up to sqrt(3) for the box).

    Parameters
    ----------
    problem : KnownPoseProblem
    batch_size : int
        m.

    Returns
    -------
    ndarray, real half grid
    """
    grid, count = problem.grid, len(problem)
    real = problem.operator.real_dtype
    if batch_size >= count:
        return np.zeros(grid.shape, real)
    share = (count - batch_size) / (batch_size * (count - 1))
    by_shell = share * _crowding(problem) * _largest_weights(problem)
    return by_shell.astype(real)[np.minimum(grid.shells(), grid.radius)]


def _largest_weights(problem: KnownPoseProblem) -> NDArray[np.float64]:
    """Largest C^2 / sigma^2 of all images that a voxel of the shells 0..R can get."""
    operator, radius = problem.operator, problem.grid.radius
    weights, members = problem.weights, problem.local_images()
    if len(weights) == 1:
        members = np.zeros(1, np.int64)
    largest = np.zeros(operator.samples, operator.real_dtype)
    for start in range(0, len(members), IMAGES_AT_ONCE):
        block = weights[members[start : start + IMAGES_AT_ONCE]]
        np.maximum(largest, block.max(axis=0), out=largest)
    problem.communicator.largest(largest)
    largest[operator.origin] *= 2
    h, k = operator.frequencies()
    by_shell = np.zeros(radius + 1 + 2 * REACH)
    np.maximum.at(by_shell, np.rint(np.hypot(h, k)).astype(np.int64) + REACH, largest)
    return np.lib.stride_tricks.sliding_window_view(by_shell, 2 * REACH + 1).max(axis=1)


def _crowding(problem: KnownPoseProblem) -> float:
    """Largest sum of the window weights of one image over a voxel."""
    operator = problem.operator
    if operator.oversampling is not None:
        return _thickest(operator)
    views = np.unique(np.linspace(0, len(problem) - 1, VIEWS).astype(np.int64))
    ones = np.ones((1, operator.samples), operator.real_dtype)
    ones[:, operator.origin] /= 2
    bare = replace(problem, weights=ones, damping=np.zeros_like(problem.damping[:1, :1, :1]))
    return max(float(bare.gridding_weight([i]).max()) for i in views)


def _thickest(operator: SliceOperator) -> float:
    """Largest projection of m^2 along some views, over N; of the box without a mask."""
    # The operator multiplies by one m itself.
    ones = np.ones((operator.grid.box,) * 3, operator.real_dtype)
    mask = ones if operator.mask is None else operator.mask
    views = random_rotations(VIEWS, np.random.default_rng(0))
    samples = operator.forward(operator.grid.from_real(mask), views)
    shown = np.fft.ifft2(operator.unpack(samples)).real
    # Cut off at R, projections overshoot.
    return min(float(shown.max() / operator.grid.box), np.sqrt(3))

"""What is added to a sum over images when it is handed over: nothing, or the prior's gradient."""

import numpy as np
from numba.extending import register_jitable

from fastcryo.kernels._jit import register

# Sums of squares may be reordered to become vectors.
reduction = register_jitable(error_model="numpy", fastmath={"contract", "reassoc", "nsz"})


@register
def no_prior(sources, damping, box, volumes, there, count, z):
    """Add nothing."""
    return 0.0


@reduction
def add_damped(target, source, damping, there, count):
    """Add damping times a part of a flat volume, and return the sum of damping |source|^2."""
    same = damping.size == 1
    first = damping[0]
    norm = 0.0
    for x in range(np.uint64(there), np.uint64(there + count)):
        weight = first if same else damping[x]
        v, t = source[x], target[x]
        re, im = weight * v.real, weight * v.imag
        norm += np.float64(re * v.real + im * v.imag)
        target[x] = complex(t.real + re, t.imag + im)
    return norm


@register
def damping_prior(sources, damping, box, volumes, there, count, z):
    """Add lambda V to part of a row of every volume.

    Parameters
    ----------
    sources : tuple of flat half grids
        V.
    damping : (0,), (1,) or (voxels,) float
        lambda; none: no prior.
    box : int
        N.
    volumes : tuple of flat half grids, modified in place
    there, count : int
        Where the part begins and how many voxels it has.
    z : int
        Its plane.

    Returns
    -------
    norm : float
        Sum of lambda |V|^2 of the first source; planes that stand for their mirrors count twice.
    """
    if damping.size == 0:
        return 0.0
    norm = add_damped(volumes[0], sources[0], damping, there, count)
    for c in range(1, len(volumes)):
        add_damped(volumes[c], sources[c], damping, there, count)
    return norm if z == 0 or 2 * z == box else 2.0 * norm

"""The one place that imports CUDA, and every option of its decorators.

With the package numba-cuda installed, ``numba.cuda`` is that package; without it, what Numba itself
ships. Nothing here is imported by ``import fastcryo``.
"""

import sys
import warnings

import numba
import numpy as np

with warnings.catch_warnings():
    # Numba's own copy says that numba-cuda replaces it; either will do.
    warnings.simplefilter("ignore")
    from numba import cuda

SIMULATED = bool(numba.config.ENABLE_CUDASIM)

# Threads of a block, and blocks of a launch at most. 256 threads of up to 64 registers let four
# blocks live on a multiprocessor; 4096 blocks are 7 rounds on the largest card, so that the last
# round wastes little. They do not depend on the card: sums by block are the same on all. The
# simulator makes a Python thread of every one, so there they are few.
THREADS = 4 if SIMULATED else 256
BLOCKS = 2 if SIMULATED else 4096
# Samples that a block works on at a time, see `fastcryo.kernels.cuda.slicing`. The simulator's
# barriers are slow, so there they are more than threads.
TILE = 64 if SIMULATED else 128

# Small boxes and batches launch few blocks, which is no fault of the user's. numba-cuda has a
# configuration of its own.
for config in (numba.config, sys.modules.get("numba.cuda.core.config")):
    if config is not None:
        config.CUDA_LOW_OCCUPANCY_WARNINGS = 0


if SIMULATED:
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    def _shared_array(self, shape, dtype):
        """Return the shared array of the line that asks.

        The simulator's own looks it up and stores it in two steps: threads of a block that ask at a
        time may each get an array of their own.
        """
        caller = sys._getframe(1)
        place = caller.f_code.co_filename, caller.f_lineno
        return self._allocations.setdefault(place, np.empty(shape, dtype))

    FakeCUDAShared.array = _shared_array
    # Threads that wait at a barrier hold Python's lock for as long as this, 5 ms otherwise: tests
    # of many barriers took 50 s in place of 31.
    sys.setswitchinterval(1e-4)


def kernel(function):
    """Compile a kernel when it is first launched, for the card that is there.

    ``fastmath`` stays off: on CUDA it would flush small numbers and approximate divisions. Sums of
    products are contracted to fused multiply-adds by default.
    """
    return cuda.jit(function)


def launch_shape(columns, rows, columns_of_block=THREADS):
    """Return (blocks along columns, blocks along rows), as many as are useful.

    Parameters
    ----------
    columns, rows : int
        Samples and images, or voxels and 1.
    columns_of_block : int
        How many a block takes at a time.
    """
    across = max(1, min(-(-columns // columns_of_block), BLOCKS))
    return across, max(1, min(rows, BLOCKS // across))


__all__ = ["BLOCKS", "SIMULATED", "THREADS", "TILE", "cuda", "kernel", "launch_shape"]

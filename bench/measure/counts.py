"""Bytes and floating-point operations per half-disc sample, single precision: stated once, here.

**Floating-point operations** of one trilinear sample; one fused multiply-add counts as two.

* weights, 15: 1 - f along three axes (3), the four products along y and z (4), each times both
  weights along x (8);
* gather, 32: 8 corners, real and imaginary part, one multiply-add each;
* scatter, 32: the same, into the volume;
* residual, 13: c s, minus the data (4), c |s|^2 into its sum (5), Re(conj(d) s) into its sum (4).

The nearest voxel has no weights, reads without arithmetic (0) and adds with 2. Positions are sums
of integers and count nothing, nor does the search for runs of samples.

**Bytes** are compulsory: what has to cross the memory bus however clever the kernel. Per sample,
4 of C^2 / sigma^2 and 8 of C y / sigma^2 or of a packed slice; per half grid that is read or added
to, 8 per coefficient (4 for a real one), once. A kernel that reads a volume again from memory for
every tile or image moves more, and that is what the fraction is meant to show.
"""

from dataclasses import dataclass

WEIGHTS = {"trilinear": 15, "nearest": 0}
GATHER = {"trilinear": 32, "nearest": 0}
SCATTER = {"trilinear": 32, "nearest": 2}
SCATTER_REAL = {"trilinear": 16, "nearest": 1}
# Squares of the six weights along the axes, for the diagonal of the Hessian.
SQUARES = {"trilinear": 6, "nearest": 0}
SQUARE, MIXED, SCALE, SUBTRACT = 5, 4, 2, 2
WEIGHT_BYTES, DATA_BYTES = 4, 8
COMPLEX_VOLUME, REAL_VOLUME = 8, 4


@dataclass(frozen=True)
class Count:
    """What one operation must do.

    Attributes
    ----------
    flops : int
        Floating-point operations per sample.
    sample_bytes : int
        Bytes per sample that are read or written once.
    volume_bytes : int
        Bytes per coefficient of the half grid that are read or written at least once.
    """

    flops: int
    sample_bytes: int
    volume_bytes: int

    def bytes_per_sample(self, coefficients: int, samples: int) -> float:
        """Return compulsory bytes per sample of a batch with `samples` samples in all."""
        return self.sample_bytes + self.volume_bytes * coefficients / samples


def count(operation: str, window: str) -> Count:
    """Return the count of an operation of `measure.cases.operations`.

    Raises
    ------
    KeyError
        An unknown operation or window.
    """
    read = WEIGHTS[window] + GATHER[window]
    add = SCATTER[window]
    both = WEIGHT_BYTES + DATA_BYTES
    residual = SCALE + SUBTRACT + SQUARE + MIXED
    return {
        "forward": Count(read, DATA_BYTES, COMPLEX_VOLUME),
        "adjoint": Count(WEIGHTS[window] + add, DATA_BYTES, COMPLEX_VOLUME),
        "gradient": Count(read + add + residual, both, 2 * COMPLEX_VOLUME),
        "gradient and product": Count(
            WEIGHTS[window] + 2 * (GATHER[window] + add) + residual + SCALE,
            both,
            4 * COMPLEX_VOLUME,
        ),
        "Hessian product": Count(read + add + SCALE + SQUARE, WEIGHT_BYTES, 2 * COMPLEX_VOLUME),
        "loss": Count(read + SQUARE + MIXED, both, COMPLEX_VOLUME),
        "loss and curvature": Count(
            read + GATHER[window] + 2 * SQUARE + MIXED, both, 2 * COMPLEX_VOLUME
        ),
        "curvature": Count(read + SQUARE, WEIGHT_BYTES, COMPLEX_VOLUME),
        "diagonal": Count(
            WEIGHTS[window] + SQUARES[window] + SCATTER_REAL[window], WEIGHT_BYTES, REAL_VOLUME
        ),
    }[operation]

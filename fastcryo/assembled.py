"""The normal operators of a reconstruction: of both half-sets, and of all images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from numpy.typing import NDArray

from fastcryo.free_memory import free_memory
from fastcryo.normal import PADDED, NormalOperator, memory
from fastcryo.operators import SliceOperator
from fastcryo.problem import KnownPoseProblem

NAMES = ("half1", "half2", "full")


def operator_memory(operator: SliceOperator) -> int:
    """Return the bytes that H takes when it is assembled for both half-sets and for all images."""
    size = operator.real_dtype.itemsize
    return len(NAMES) * memory(operator.grid, operator.interpolation, size)


def assemble_all(
    problem: KnownPoseProblem,
    halves: list[KnownPoseProblem],
    report: Callable[[str, int, int, str], None],
    limit: int | None = None,
) -> tuple[dict[str, NormalOperator], str]:
    """Assemble H of both half-sets and, from them, of all images.

    Parameters
    ----------
    problem : KnownPoseProblem
        All images.
    halves : list of two KnownPoseProblem
        Its half-sets; every image is in one of them.
    report : callable
        Called with (stage, done, total, detail); the bytes are named before they are allocated.
    limit : int, optional
        Bytes that the three may take: half of the free memory unless given.

    Returns
    -------
    operators : dict of NormalOperator
        "half1", "half2" and "full"; empty if they do not fit.
    note : str
        Why it is empty.
    """
    if problem.operator.interpolation == "trilinear" and problem.operator.oversampling is not None:
        return {}, PADDED
    needed = operator_memory(problem.operator)
    if limit is None:
        free = free_memory(problem.communicator)
        limit = needed if free is None else free // 2
    size = f"{needed / 2**30:.2g} GiB"
    if needed > limit:
        note = (
            f"H of both half-sets and of all images would take {size}, more than the "
            f"{limit / 2**30:.2g} GiB that it may: every product goes through the images instead"
        )
        report("assembling H", 1, 1, f"{size} do not fit, products go through the images")
        return {}, note
    operators = {}
    for done, (name, half) in enumerate(zip(NAMES[:2], halves, strict=True)):
        report("assembling H", done, 2, size)
        operators[name] = half.normal_operator(limit=needed)
    operators["full"] = merge(operators["half1"], operators["half2"], problem)
    report("assembling H", 2, 2, size)
    return operators, ""


def merge(
    first: NormalOperator, second: NormalOperator, problem: KnownPoseProblem
) -> NormalOperator:
    """Return the assembled H of a problem whose images are those of two operators together."""
    shares = [len(part.problem) / len(problem) for part in (first, second)]

    def mean(one: NDArray | None, other: NDArray | None) -> NDArray | None:
        if one is None:
            return None
        total = one * one.dtype.type(shares[0])
        for plane, added in zip(total, other, strict=True):
            plane += added * added.dtype.type(shares[1])
        return total

    convolution = None
    if first.convolution is not None:
        one, other = first.convolution, second.convolution
        spectrum, diagonal = mean(one.spectrum, other.spectrum), mean(one.diagonal, other.diagonal)
        convolution = replace(one, spectrum=spectrum, diagonal=diagonal)
    return replace(
        first,
        problem=problem,
        stencil=mean(first.stencil, second.stencil),
        weight=mean(first.weight, second.weight),
        convolution=convolution,
    )

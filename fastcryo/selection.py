"""Choosing particles: by a condition on columns of their file, by number, by what images hold."""

from __future__ import annotations

import ast
import dataclasses
import operator
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastcryo.errors import InputError
from fastcryo.io.cs import is_cryosparc, read_fields
from fastcryo.io.relion import read_rows
from fastcryo.io.star import listing
from fastcryo.packing import pieces
from fastcryo.particles import Particles, is_file, read_particles

LONGEST_CONDITION = 10_000
IMAGES_AT_ONCE = 64
COMPARISONS = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda left, right: np.isin(left, right),
    ast.NotIn: lambda left, right: ~np.isin(left, right),
}
ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}


def choose(
    particles: Particles,
    condition: str | None = None,
    limit: int | None = None,
    passthrough: str | None = None,
) -> Particles:
    """Return the particles that a condition holds for, or some of these.

    Parameters
    ----------
    particles : Particles
        All rows of a file, as `fastcryo.read_particles` returns them.
    condition : str, optional
        Comparisons of columns, such as ``rlnDefocusU < 20000 and rlnClassNumber in (1, 3)``; names
        may leave out ``rln``. Fields of a .cs file are written ``alignments3D/class == 0``.
    limit : int, optional
        At most so many, spread evenly over the file, both half-sets in proportion.
    passthrough : path, optional
        cryoSPARC's second file.

    Returns
    -------
    Particles
        In the order of the file; a note says how many were left out, and by what.

    Raises
    ------
    InputError
        A condition that cannot be evaluated, or that holds for no particle.
    """
    kept, reasons = particles, []
    if condition is not None:
        mask = evaluate(condition, particles, passthrough)
        kept = kept.select(mask)
        reasons.append((len(particles) - len(kept), f"by --select {condition}"))
        if len(kept) == 0:
            raise InputError(
                f"{particles.source}: --select {condition!r} holds for none of "
                f"{len(particles)} particles"
            )
    if limit is not None and limit < len(kept):
        # Half-set by half-set, so that both are thinned out alike.
        order = np.argsort(kept.half, kind="stable")
        spread = np.linspace(0, len(kept) - 1, limit).round().astype(np.int64)
        reasons.append((len(kept) - limit, f"by --limit {limit}"))
        kept = kept.select(np.sort(order[spread]))
    return noted(particles, kept, reasons)


def noted(particles: Particles, kept: Particles, reasons: list[tuple[int, str]]) -> Particles:
    """Add the note of what was left out."""
    left_out = [f"{count} left out {reason}" for count, reason in reasons if count]
    if not left_out:
        return kept
    note = f"{len(particles)} particles read, {len(kept)} used: {', '.join(left_out)}"
    return dataclasses.replace(kept, notes=(*kept.notes, note))


def with_usable_images(
    particles: Particles, progress: Callable[[int, int], None] | None = None
) -> Particles:
    """Read all images and leave out those that are unreadable, NaN or infinite, or constant.

    Parameters
    ----------
    particles : Particles
    progress : callable, optional
        Called with (images done, images in all).

    Returns
    -------
    Particles
        A note says how many were left out, why, and which was the first.

    Raises
    ------
    InputError
        No image can be used.
    """
    problems: dict[int, str] = {}
    order = particles.reading_order()
    for piece in pieces(len(order), IMAGES_AT_ONCE):
        problems |= _image_problems(particles, order[piece])
        if progress is not None:
            progress(piece.stop, len(order))
    if len(problems) == len(particles):
        raise InputError(f"{particles.source}: no image can be used, {problems[0]}")
    first = {reason: i for i, reason in sorted(problems.items(), reverse=True)}
    reasons = [
        (
            count,
            f"for images that are {reason} (the first: {particles.describe_image(first[reason])})",
        )
        for reason, count in Counter(problems.values()).items()
    ]
    kept = particles.select(np.setdiff1d(np.arange(len(particles)), list(problems)))
    return noted(particles, kept, reasons)


def images_lost(out: Path, particles: Particles) -> str | None:
    """Say what is needed to find the images of particles that were written to another folder.

    Names of stacks stay as they were, relative to where RELION ran.

    Parameters
    ----------
    out : Path
        The STAR file that was written.
    particles : Particles
        What was written to it, in its order.

    Returns
    -------
    str or None
        None if the images are found from there too, or were not before.
    """
    if not particles.stacks or out.absolute().parent == particles.source.absolute().parent:
        return None
    try:
        written = read_particles(out, need_images=False)
    except InputError as error:
        return str(error)
    stacks = dict(zip(particles.stack.tolist(), written.stack.tolist(), strict=True))
    for stack, name in stacks.items():
        before, after = particles.stacks[stack], written.stacks[name]
        if is_file(before) and not is_file(after):
            there = before.absolute()
            relative = there.parts[-len(after.parts) :] == after.parts
            root = there.parents[len(after.parts) - 1] if relative else there.parent
            return (
                f"the images are named relative to another folder: give --image-root {root} "
                f"together with {out}"
            )
    return None


def _image_problems(particles: Particles, members: NDArray[np.int64]) -> dict[int, str]:
    try:
        images = particles.images(members, check_finite=False)
    except InputError:
        if len(members) == 1:
            return {int(members[0]): "unreadable"}
        halves = np.array_split(members, 2)
        return _image_problems(particles, halves[0]) | _image_problems(particles, halves[1])
    found = {}
    for member, image in zip(members.tolist(), images, strict=True):
        if not np.isfinite(image).all():
            found[member] = "NaN or infinite"
        elif image.min() == image.max():
            found[member] = "constant"
    return found


def evaluate(condition: str, particles: Particles, passthrough: str | None = None) -> NDArray:
    """Return for which particles a condition holds, as `choose` takes it."""
    column = _columns(particles, passthrough)
    try:
        if len(condition) > LONGEST_CONDITION:
            raise SyntaxError
        tree = ast.parse(column.identifiers(condition.strip()), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(
            f"--select: {condition[:80]!r} cannot be understood, comparisons of columns are needed "
            "(rlnDefocusU < 20000 and rlnClassNumber == 1)"
        ) from None
    result = _value(tree.body, column)
    if np.shape(result) != (len(particles),) or result.dtype != bool:
        raise InputError(
            f"--select: {condition!r} is no condition on particles, compare a column with something"
        )
    return result


@dataclasses.dataclass(frozen=True, eq=False)
class _Columns:
    """Columns of a file by the names that stand for them in a condition."""

    source: Path
    names: dict[str, str]
    read: Callable[[str], NDArray]

    def identifiers(self, condition: str) -> str:
        """Replace names that are no words, such as ctf/df1_A."""
        for word, name in sorted(self.names.items(), key=lambda pair: -len(pair[1])):
            if not name.isidentifier():
                condition = condition.replace(name, word)
        return condition

    def __call__(self, word: str) -> NDArray:
        for candidate in (word, f"rln{word}"):
            if candidate in self.names:
                return self.read(self.names[candidate])
        raise InputError(
            f"{self.source}: --select names {word}, which is no column (found "
            f"{listing(self.names.values())})"
        )


def _columns(particles: Particles, passthrough: str | None) -> _Columns:
    path = particles.source
    if is_cryosparc(path):
        fields = read_fields(path, passthrough)
        names = {f"field_{i}_": name for i, name in enumerate(fields)}

        def read(name: str) -> NDArray:
            values = fields[name][particles.row]
            return np.char.decode(values) if values.dtype.kind == "S" else values
    else:
        rows = read_rows(path)
        known = dict.fromkeys(rows.particles.columns)
        known |= dict.fromkeys(() if rows.optics is None else rows.optics.columns)
        names = {name: name for name in known}

        def read(name: str) -> NDArray:
            try:
                values = rows.numbers(name)
            except InputError:
                values = np.array(rows.texts(name))
            return values[particles.row]

    return _Columns(path, names, read)


def _value(node: ast.expr, column: _Columns):
    """Evaluate a part of a condition; everything but what is listed here is refused."""
    try:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return value
            case ast.Name(id=word):
                return column(word)
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return [_value(item, column) for item in items]
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return np.logical_not(_value(operand, column))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -_value(operand, column)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
                with np.errstate(all="ignore"):
                    return ARITHMETIC[type(op)](_value(left, column), _value(right, column))
            case ast.BoolOp(op=op, values=values):
                join = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return join.reduce([_value(value, column) for value in values])
            case ast.Compare(left=left, ops=ops, comparators=others):
                sides = [_value(side, column) for side in (left, *others)]
                pairs = zip(ops, sides[:-1], sides[1:], strict=True)
                return np.logical_and.reduce([COMPARISONS[type(op)](a, b) for op, a, b in pairs])
    except (TypeError, KeyError, ValueError, ZeroDivisionError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"--select: {ast.unparse(node)!r} cannot be evaluated, numbers go with numbers and "
            "texts in quotes with columns of texts"
        ) from error
    raise InputError(
        f"--select: {ast.unparse(node)[:80]!r} is not allowed, use columns, numbers, comparisons, "
        "and, or, not, in"
    )

"""Tickets: threads that are done with one piece of work take the next."""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload


def take(counter):
    """Return a number that no other thread gets, counting from 0."""
    counter[0] += 1
    return counter[0] - 1


@intrinsic
def _take_atomically(typingctx, counter):
    """Do as `take` in compiled code."""

    def generate(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, value=args[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate


@overload(take)
def _choose_take(counter):
    """Check the type: the intrinsic sees a pointer."""
    if counter == types.Array(types.int64, 1, "C"):
        return lambda counter: _take_atomically(counter)

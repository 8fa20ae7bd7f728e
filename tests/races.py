"""What a graphics card would do wrong and the simulator does right: races and lost barriers.

The simulator runs the threads of a block in turns, and one block after another, so that a missing
barrier or two threads that write to one number go unnoticed. `watched` writes down who touches what
between which barriers, and refuses

* two threads of a block that touch a number between the same two barriers, one of them writing;
* two blocks that touch a number in one launch, one of them writing (atomic sums are for that);
* shared memory that is read before anybody in the block has written it;
* threads of a block that do not all meet the same barriers;
* indices below zero.
"""

import contextlib
import sys
import threading
from collections import defaultdict

import numpy as np
from numba.cuda.simulator import kernel as simulated
from numba.cuda.simulator import kernelapi
from numba.cuda.simulator.cudadrv import devicearray

READ, WRITE, ATOMIC = "reads", "writes", "adds to"


class Race(Exception):
    """Two threads that touch one number at a time, or barriers that not all of them meet."""


class Log:
    """Who touched what in one launch."""

    def __init__(self, name):
        self.name = name
        self.touched = defaultdict(dict)
        self.barriers = defaultdict(list)
        self.lock = threading.Lock()

    def touch(self, array, index, kind, shared):
        """Write down an access, and compare it with those of other threads."""
        index = index if isinstance(index, tuple) else (index,)
        if any(i < 0 for i in index):
            raise Race(f"{self.name}: index {index}")
        thread = threading.current_thread()
        block, who = tuple(thread.blockIdx), thread.thread_id
        address = array.__array_interface__["data"][0]
        address += sum(int(i) * step for i, step in zip(index, array.strides, strict=True))
        with self.lock:
            now = len(self.barriers[block, who])
            place = (block, address) if shared else address
            former = self.touched[place]
            if shared and kind == READ and not any(how == WRITE for *_, how in former):
                raise Race(f"{self.name}: shared memory is read that nobody has written")
            for other_block, other, then, how in former:
                alone = (other_block, other) == (block, who)
                ordered = other_block == block and then != now
                harmless = how == kind and kind != WRITE
                if not (alone or ordered or harmless):
                    raise Race(f"{self.name}: one thread {how}, another {kind} {index}")
            former[block, who, now, kind] = True

    def meet(self, line):
        """Write down that this thread meets a barrier."""
        thread = threading.current_thread()
        with self.lock:
            self.barriers[tuple(thread.blockIdx), thread.thread_id].append(line)

    def close(self):
        """Compare the barriers of the threads of every block."""
        met = defaultdict(set)
        for (block, _), lines in self.barriers.items():
            met[block].add(tuple(lines))
        if any(len(found) > 1 for found in met.values()):
            raise Race(f"{self.name}: not all threads meet the same barriers")


class Shared:
    """A shared array whose accesses are written down."""

    def __init__(self, array, log):
        self.array, self.log = array, log

    def __getitem__(self, index):
        self.log.touch(self.array, index, READ, True)
        return self.array[index]

    def __setitem__(self, index, value):
        self.log.touch(self.array, index, WRITE, True)
        self.array[index] = value


@contextlib.contextmanager
def watched(monkeypatch, races=True):
    """Watch all launches; yields the list of (kernel, arguments) of those that were made.

    `races`: look for these as well, which takes several times as long.
    """
    launches, logs = [], []
    launch = simulated.FakeCUDAKernel.__call__
    synchronize = simulated.BlockThread.syncthreads
    array_type = devicearray.FakeWithinKernelCUDAArray
    get, put = array_type.__getitem__, array_type.__setitem__

    def call(kernel, *arguments):
        if simulated._kernel_context is not None:
            return launch(kernel, *arguments)
        logs.append(Log(kernel.__name__))
        launches.append((kernel, arguments))
        launch(kernel, *arguments)
        logs[-1].close()
        return None

    def touch(array, index, kind):
        held = array._item._ary
        length = len(index) if isinstance(index, tuple) else 1
        if length == held.ndim:
            logs[-1].touch(held, index, kind, False)

    def getitem(array, index):
        touch(array, index, READ)
        return get(array, index)

    def setitem(array, index, value):
        touch(array, index, WRITE)
        put(array, index, value)

    def shared_array(module, shape, dtype):
        caller = sys._getframe(1)
        place = caller.f_code.co_filename, caller.f_lineno
        array = module._allocations.setdefault(place, np.empty(shape, dtype))
        return Shared(array, logs[-1])

    def add(_, array, index, value):
        touch(array, index, ATOMIC)
        with kernelapi.addlock:
            array._item._ary[index] += value

    def syncthreads(thread):
        synchronize(thread)
        logs[-1].meet(sys._getframe(2).f_lineno)

    with monkeypatch.context() as patch:
        patch.setattr(simulated.FakeCUDAKernel, "__call__", call)
        if not races:
            yield launches
            return
        patch.setattr(simulated.BlockThread, "syncthreads", syncthreads)
        patch.setattr(array_type, "__getitem__", getitem)
        patch.setattr(array_type, "__setitem__", setitem)
        patch.setattr(kernelapi.FakeCUDAShared, "array", shared_array)
        patch.setattr(kernelapi.FakeCUDAAtomic, "add", add)
        yield launches

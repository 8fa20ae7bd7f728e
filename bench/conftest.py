"""Options and fixtures of the benchmarks."""

import pytest
from measure import cases, counts, machine, timing

from fastcryo.threads import thread_count, use_threads

BOXES = (64, 128, 192, 256)
QUICK_BOXES = (32,)
IMAGES, QUICK_IMAGES = 256, 16
# At least seven rounds of every benchmark, more of short ones.
ROUNDS, MOST_ROUNDS, SECONDS = 7, 25, 1.0
MACHINE = pytest.StashKey[dict]()


def pytest_addoption(parser):
    """Add --quick: one small box, to see that everything runs."""
    parser.addoption("--quick", action="store_true", help="one small box, few rounds")


@pytest.fixture(scope="session")
def quick(request):
    """Return whether sizes are to be small."""
    return request.config.getoption("--quick")


def pytest_generate_tests(metafunc):
    """Give `box` the sizes of the field, or one small one."""
    if "box" in metafunc.fixturenames:
        boxes = QUICK_BOXES if metafunc.config.getoption("--quick") else BOXES
        metafunc.parametrize("box", boxes, scope="session")


@pytest.fixture
def case(box, quick):
    """Return the case of a box: a batch of images with CTFs, and a volume."""
    return cases.make_case(box, QUICK_IMAGES if quick else IMAGES)


@pytest.fixture
def measured(benchmark, quick):
    """Return a function that times a function and notes rates and ceilings beside the times."""

    def run(operation, function, *, box, images, samples, threads=None, window=None):
        threads = threads or thread_count()
        names = [operation, window, f"N={box}"]
        benchmark.group = " ".join(name for name in names if name)
        benchmark.extra_info |= {
            "operation": operation,
            "window": window,
            "box": box,
            "images": images,
            "threads": threads,
            "quick": quick,
        }
        with use_threads(threads):
            function()
            once = timing.seconds_of(function)
            rounds = min(max(ROUNDS, int(SECONDS / once)), MOST_ROUNDS)
            benchmark.pedantic(function, rounds=1 if quick else rounds, iterations=1)
        if benchmark.stats is None:
            return None
        seconds = benchmark.stats.stats.median
        benchmark.extra_info |= {
            "images_per_second": images / seconds,
            "ns_per_sample": 1e9 * seconds / samples,
        }
        return seconds

    return run


@pytest.fixture
def measured_case(benchmark, measured, quick):
    """Return a function that times an operation on a case and compares it with the ceilings."""

    def run(operation, case, window, threads=None):
        case = cases.with_window(case, window)
        problem, samples = case.problem, case.total_samples
        function = cases.operations(case)[operation]
        seconds = measured(
            operation,
            function,
            box=problem.grid.box,
            images=len(case.batch),
            samples=samples,
            threads=threads,
            window=window,
        )
        work = counts.count(operation, window)
        moved = work.bytes_per_sample(case.volume.size, samples)
        benchmark.extra_info |= {"flops_per_sample": work.flops, "bytes_per_sample": moved}
        if seconds is None:
            return
        threads = benchmark.extra_info["threads"]
        stream = machine.stream_bandwidth(threads, quick)
        benchmark.extra_info |= {
            "gflops": 1e-9 * work.flops * samples / seconds,
            "stream_gb_per_second": 1e-9 * stream,
            "dram_fraction": moved * samples / seconds / stream,
        }
        if window != "trilinear":
            return
        with use_threads(threads):
            cached = cases.operations(cases.resident(case))[operation]
            # Both sides of the fraction are the shortest of as many runs.
            fastest = timing.shortest(cached, len(benchmark.stats.stats.data))
        benchmark.extra_info |= {
            "resident_ns_per_sample": 1e9 * fastest / samples,
            "fraction_of_l1_rate": fastest / benchmark.stats.stats.min,
        }

    return run


def pytest_sessionstart(session):
    """Look at the machine, and its load, before anything is measured."""
    session.config.stash[MACHINE] = machine.describe()


def pytest_benchmark_update_json(config, output_json):
    """Add what the tables of bench/RESULTS.md say about the machine."""
    output_json["fastcryo_machine"] = config.stash[MACHINE]

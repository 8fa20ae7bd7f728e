"""Kernels timed in turns within one run: the ratios that bench/compare.py holds to the baseline."""

import pytest
from measure import cases, ratios, timing

from fastcryo.threads import use_threads

ROUNDS = 15


def bench_ratios(benchmark, quick):
    if benchmark.disabled and not quick:
        pytest.skip("nothing is measured without --benchmark-enable")
    boxes, images = (ratios.QUICK_BOXES, 8) if quick else (ratios.BOXES, ratios.IMAGES)
    functions, samples = {}, {}
    for box in boxes.values():
        case = cases.make_case(box, images)
        offered = {
            (operation, "random"): function
            for operation, function in cases.operations(case).items()
        }
        again = cases.operations(cases.resident(case))
        offered["gradient", "resident"] = again["gradient"]
        nearest = cases.operations(cases.with_window(case, "nearest"))
        offered["gradient", "nearest"] = nearest["gradient"]
        functions |= {(*name, box): function for name, function in offered.items()}
        samples[box] = case.total_samples
    wanted = {name: functions[name] for name in ratios.wanted(boxes)}
    with use_threads(1):
        times = timing.alternate(wanted, 2 if quick else ROUNDS)
    found = ratios.from_times(times, samples, boxes)
    benchmark.group = "all in turns"
    benchmark.extra_info |= {"ratios": found, "quick": quick}
    slowest = functions["gradient", "random", boxes["large"]]
    benchmark.pedantic(slowest, rounds=1)
    assert all(value > 0 for value in found.values())

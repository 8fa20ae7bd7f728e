"""Kernels: forward, adjoint, fused gradient, Hessian product, loss, exact diagonal, preparation."""

import numpy as np
import pytest

import fastcryo as fc


@pytest.fixture(params=["trilinear", "nearest"])
def sized(request, case):
    """Return the case for one window."""
    problem, volume = case
    operator = fc.SliceOperator(problem.grid, request.param)
    return replace_operator(problem, operator), volume


def replace_operator(problem, operator):
    """Return the same problem with another window; the packed data do not depend on it."""
    from dataclasses import replace

    return replace(problem, operator=operator)


def rotations(count):
    """Return the rotations of the case."""
    from fastcryo.rotations import random_rotations

    return random_rotations(count, np.random.default_rng(0))


def run(benchmark, group, problem, function, rate):
    """Benchmark a function after one call that compiles; groups by operation, window and box."""
    window = problem.operator.interpolation
    benchmark.group = f"{group} {window} N={problem.grid.box}"
    function()
    benchmark(function)
    rate(benchmark, problem, len(problem))


def bench_forward(benchmark, sized, rate):
    problem, volume = sized
    views = rotations(len(problem))
    run(benchmark, "forward", problem, lambda: problem.operator.forward(volume, views), rate)


def bench_adjoint(benchmark, sized, rate):
    problem, volume = sized
    views = rotations(len(problem))
    samples = problem.operator.forward(volume, views)
    run(benchmark, "adjoint", problem, lambda: problem.operator.adjoint(samples, views), rate)


def bench_gradient(benchmark, sized, rate):
    problem, volume = sized
    run(benchmark, "gradient", problem, lambda: problem.loss_and_gradient(volume), rate)


def bench_hessian_product(benchmark, sized, rate):
    problem, volume = sized
    run(benchmark, "hvp", problem, lambda: problem.hvp(volume), rate)


def bench_loss(benchmark, sized, rate):
    problem, volume = sized
    run(benchmark, "loss", problem, lambda: problem.loss(volume), rate)


def bench_exact_diagonal(benchmark, sized, rate):
    problem, _ = sized
    run(benchmark, "diagonal", problem, problem.hessian_diagonal, rate)


def bench_preparation(benchmark, box, request, rate):
    images = 32 if request.config.getoption("--quick") else 128
    pixels = np.random.default_rng(0).standard_normal((images, box, box), dtype=np.float32)
    ctf = fc.CTF(np.linspace(1e4, 2e4, images), 1.5e4, 30.0)
    views = rotations(images)

    def prepare():
        return fc.KnownPoseProblem.from_arrays(pixels, views, 1.5, ctf=ctf)

    run(benchmark, "preparation", prepare(), prepare, rate)

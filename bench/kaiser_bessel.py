"""Windows side by side: accuracy, maps and speed; the tables and figure of docs/kaiser_bessel.md.

``python bench/kaiser_bessel.py accuracy|maps|speed|memory [--quick] [--figure FILE]``
"""

import argparse
import multiprocessing
import resource
import time

import finufft
import numpy as np
import scipy

import fastcryo as fc
from fastcryo.kernels import layout
from fastcryo.masks import mask_from_map, taper
from fastcryo.oversampling import beatty_shape
from fastcryo.rotations import random_rotations
from fastcryo.threads import thread_count, use_threads

WINDOWS = {
    "nearest": {"interpolation": "nearest"},
    "trilinear": {"interpolation": "trilinear"},
    "trilinear, padded": {"interpolation": "trilinear", "oversampling": 2},
    "relion": {"interpolation": "trilinear", "oversampling": 2, "compat": "relion"},
    "KB 4, 1.5": {"interpolation": "kaiser_bessel", "width": 4},
    "KB 5, 1.5": {"interpolation": "kaiser_bessel", "width": 5},
    "KB 6, 2": {"interpolation": "kaiser_bessel", "width": 6, "oversampling": 2},
}
# What is compared: maps as they are, and with one soft mask on all of them, which Kaiser-Bessel has
# inside as well. Kaiser-Bessel maps are tapered by sinc^2, as trilinear ones are, but "KB open".
OPEN = ("trilinear", "padded, Wiener", "KB open", "KB", "KB, SGD")
# N, images, fewer images and rounds of the speed.
PARTS = ((128, 1000, 100, 5), (256, 400, 40, 3))
MASKED = ("trilinear", "padded, Wiener", "KB", "KB in mask", "KB in mask, SGD")


def points(operator, rotations, dtype):
    """Positions of all packed samples as finufft takes them: (z, y, x), radians per voxel."""
    h, k = operator.frequencies()
    a = rotations[:, :2, ::-1]
    unit = 2 * np.pi / operator.grid.box
    where = unit * (a[:, 0, :, None] * h + a[:, 1, :, None] * k)
    return [np.ascontiguousarray(where[:, axis].ravel(), dtype) for axis in range(3)]


def exact_slices(operator, volume, rotations):
    """Return the non-uniform DFT of a map, to 1e-12."""
    found = finufft.nufft3d2(
        *points(operator, rotations, np.float64), volume.astype(complex), eps=1e-12, isign=-1
    )
    return found.reshape(len(rotations), -1)


def relative(found, expected):
    """Relative error, root mean square."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def accuracy(quick):
    """Relative error of slices of white noise that fills the box, by width and oversampling."""
    rng = np.random.default_rng(0)
    grid = fc.FourierGrid(32 if quick else 64)
    rotations = random_rotations(10, rng)
    volume = rng.standard_normal((grid.box,) * 3)
    half = grid.from_real(volume)
    print("| oversampling | width 4 | width 5 | width 6 |\n|---|---|---|---|")
    for oversampling in (1.25, 1.5, 1.75, 2.0):
        errors = []
        for width in (4, 5, 6):
            operator = fc.SliceOperator(
                grid, "kaiser_bessel", dtype="float64", oversampling=oversampling, width=width
            )
            expected = exact_slices(operator, volume, rotations)
            errors.append(f"{relative(operator.forward(half, rotations), expected):.1e}")
        print(f"| {oversampling:g} | " + " | ".join(errors) + " |", flush=True)

    print("\nWhat the aliases of the window give, by Beatty's shape and by the best one")
    print("\n| width | oversampling | box: Beatty | best | ball: Beatty | best |")
    print("|---" * 6 + "|")
    for width in (4, 5, 6):
        for oversampling in (1.25, 1.5, 1.75, 2.0):
            cells = []
            for ball in (False, True):
                shape = beatty_shape(width, oversampling)
                best = scipy.optimize.minimize_scalar(
                    lambda x, *rest: np.log(aliases(x, *rest)),
                    bounds=(0.8 * shape, 1.2 * shape),
                    args=(width, oversampling, ball),
                    method="bounded",
                )
                error = aliases(shape, width, oversampling, ball)
                cells += [f"{error:.1e}", f"{np.exp(best.fun):.1e} at {best.x / shape:.3f} x"]
            print(f"| {width} | {oversampling:g} | " + " | ".join(cells) + " |", flush=True)


def aliases(shape, width, oversampling, ball):
    """Relative error of slices of white noise that fills the box, or the ball, by theory.

    A position anywhere in its cell sees the map times Phi(x), the window's transform, and its
    aliases x + j M times Phi(x + j M), which add up as squares over the three axes.
    """
    x = (np.arange(400) + 0.5) / 400 - 0.5

    def transform(frequency):
        square = shape**2 - (np.pi * width * frequency) ** 2
        root = np.sqrt(np.abs(square))
        return np.where(square > 0, np.sinh(root) / root, np.sinc(root / np.pi))

    apart = [j for j in range(-6, 7) if j]
    wrong = (
        sum(transform(x / oversampling + j) ** 2 for j in apart) / transform(x / oversampling) ** 2
    )
    return np.sqrt(3 * np.average(wrong, weights=1 - 4 * x**2 if ball else None))


def by_shell(operator, found, expected):
    """Relative error of packed samples by shell of the image."""
    h, k = operator.frequencies()
    shell = np.rint(np.hypot(h, k)).astype(int)
    wrong = np.bincount(shell, (np.abs(found - expected) ** 2).sum(axis=0))
    whole = np.bincount(shell, (np.abs(expected) ** 2).sum(axis=0))
    return np.sqrt(wrong / whole)


def slice_errors(data):
    """Errors by shell of slices of the true map against the map's own transform."""
    grid = fc.FourierGrid(data.box)
    rotations = data.rotations[:50]
    curves = {}
    for name, options in WINDOWS.items():
        operator = fc.SliceOperator(grid, dtype="float64", **options)
        expected = exact_slices(operator, data.truth, rotations)
        truth = data.truth.astype(np.float64)
        half = grid.from_real(truth / shown_by(operator))
        curves[name] = by_shell(operator, operator.forward(half, rotations), expected)
    return curves


def shown_by(operator):
    """Return what `to_map` multiplies a map by: 1 where the window is corrected inside."""
    grid = operator.grid
    return operator.to_map(grid.from_real(np.ones((grid.box,) * 3)))


def problem_of(data, window, strength, mask=None):
    """Return the problem of a data set with the Wiener prior of the true spectrum.

    `strength` is sigma of the noise of a pixel that the prior presumes.
    """
    grid = fc.FourierGrid(data.box)
    power = grid.shell_means(np.abs(grid.from_real(data.truth)) ** 2)
    return fc.KnownPoseProblem.from_arrays(
        data.images,
        data.rotations,
        data.pixel_size,
        data.ctf,
        data.shifts,
        noise_std=strength * data.box,
        regularization=1 / (len(data) * power),
        backend="cpu",
        **WINDOWS[window],
        **({} if mask is None else {"mask": mask}),
    )


def solved(problem, solver):
    """Return the map of a problem."""
    operator = problem.normal_operator()
    if solver == "cg":
        found = fc.conjugate_gradient(problem, tolerance=1e-5, operator=operator).volume
    elif solver == "sgd":
        found = fc.sgd(
            problem,
            epochs=10,
            batch_size=len(problem) // 10,
            preconditioner="gridding",
            step=1.0,
            variance_reduction="svrg",
            operator=operator,
        ).volume
    else:
        found = fc.wiener(problem)
    return problem.to_map(found)


def curves_of(data, strength):
    """Return FSC to the truth by kind of comparison and by method, and seconds by method.

    The mask is made from what the padded quotient shows, without a look at the truth.
    """
    maps, seconds = {}, {}

    def keep(name, window, solver, mask=None):
        began = time.perf_counter()
        maps[name] = solved(problem_of(data, window, strength, mask), solver)
        seconds[name] = time.perf_counter() - began

    box, window = data.box, "KB 5, 1.5"
    keep("trilinear", "trilinear", "cg")
    keep("padded, Wiener", "relion", "wiener")
    mask = mask_from_map(maps["padded, Wiener"], data.pixel_size)
    keep("KB open", window, "cg")
    keep("KB", window, "cg", taper(box))
    keep("KB, SGD", window, "sgd", taper(box))
    keep("KB in mask", window, "cg", mask * taper(box))
    keep("KB in mask, SGD", window, "sgd", mask * taper(box))
    found = {
        kind: {name: fc.fsc(maps[name], data.truth, chosen) for name in names}
        for kind, chosen, names in (("no mask", None, OPEN), ("one mask", mask, MASKED))
    }
    return found, seconds


def print_shells(title, curves, shells, form):
    """Print curves as a table."""
    print(f"\n{title}\n\n| shell | " + " | ".join(curves) + " |")
    print("|---" * (len(curves) + 1) + "|")
    for shell in shells:
        print(f"| {shell} | " + " | ".join(format(c[shell], form) for c in curves.values()) + " |")


def print_lead(curves, radius):
    """Print by how much Kaiser-Bessel is ahead beyond half Nyquist: mean and standard error."""
    beyond = np.arange(radius // 2 + 1, radius + 1)
    ours = [name for name in curves if name.startswith("KB") and name != "KB open"]
    pairs = [(one, other) for one in ours for other in ("trilinear", "padded, Wiener")]
    leads = {pair: (curves[pair[0]] - curves[pair[1]])[:, beyond] for pair in pairs}
    print("\n| lead in FSC at shell | " + " | ".join(f"{a} over {b}" for a, b in pairs) + " |")
    print("|---" * (len(pairs) + 1) + "|")
    for place, shell in enumerate(beyond):
        cells = []
        for lead in leads.values():
            error = lead[:, place].std(ddof=1) / np.sqrt(len(lead))
            cells.append(f"{lead[:, place].mean():.1e} ± {error:.0e}")
        print(f"| {shell} | " + " | ".join(cells) + " |")
    for (one, other), lead in leads.items():
        behind = beyond[lead.mean(axis=0) <= 0].tolist()
        print(f"{one} over {other}: {lead.mean():.2g} on average; behind at shells {behind}")


def maps(quick, figure, seeds):
    """Errors of slices and FSC to the truth by shell, mean of several data sets."""
    box, count = (32, 500) if quick else (40, 1500)
    settings = {"box": box, "pixel_size": 2.0, "count": count, "ctf": True}
    radius = fc.FourierGrid(box).radius
    shells = [*range(2, radius, max(1, radius // 10)), radius]
    errors = slice_errors(fc.simulate_arrays(**settings, seed=1, snr=None))
    print_shells("Relative error of slices of the true map", errors, shells, ".1e")
    panels = {"slices of the true map": errors}
    for label, snr in (("noise-free", None), ("SNR 0.1", 0.1)):
        found = []
        for seed in range(1, seeds + 1):
            data = fc.simulate_arrays(**settings, seed=seed, snr=snr)
            strength = 1.0 if snr else 1e-3 * float(data.images[:100].std())
            curves, seconds = curves_of(data, strength)
            found.append(curves)
        for kind in found[0]:
            gathered = {
                name: np.stack([one[kind][name] for one in found]) for name in found[0][kind]
            }
            panel = {n: np.maximum(1 - c.mean(axis=0), 1e-8) for n, c in gathered.items()}
            title = f"1 - FSC to the truth, {label}, {kind}, mean of {seeds} data sets"
            print_shells(title, panel, shells, ".2e")
            print_lead(gathered, radius)
            panels[f"{label}, {kind}"] = panel
        print({name: f"{time:.1f} s" for name, time in seconds.items()}, flush=True)
    if figure:
        draw(panels, figure, radius)


def draw(panels, figure, radius):
    """Draw errors and 1 - FSC by shell."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(2, 3, figsize=(14, 8), layout="constrained")
    axes[1, 2].axis("off")
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
        for number, (name, curve) in enumerate(curves.items()):
            line = "-" if number < 4 else "--"
            axis.semilogy(np.arange(1, radius + 1), curve[1 : radius + 1], line, label=name)
        axis.set(title=title, xlabel="shell, cycles per box", ylabel="1 - FSC to the truth")
        axis.xaxis.get_major_locator().set_params(integer=True)
        low, high = axis.get_ylim()
        axis.set_ylim(low, high * (high / low) ** 0.3)
        axis.legend(fontsize=8, loc="upper left", ncol=2)
    axes[0, 0].set_ylabel("relative error")
    plt.savefig(figure, dpi=100)
    plt.close()


def slicer(grid, half, rotations, options):
    """Return the calls that slice, project back and make a gradient, and some slices."""
    operator = fc.SliceOperator(grid, "kaiser_bessel", **options)
    samples = operator.forward(half, rotations)
    steps, images = layout.fixed_point_steps(rotations), np.arange(len(rotations))
    weights, out = np.ones((1, operator.samples), np.float32), np.empty_like(samples)
    target = grid.zeros()
    return {
        "slices": lambda: operator.forward(half, rotations, out),
        "adjoints": lambda: operator.adjoint(samples, rotations, target),
        "gradients": lambda: operator.normal(half, steps, images, weights, samples, out=target),
    }, samples[:2]


def transformer(grid, volume, rotations, samples, set_points):
    """Return finufft's calls, with its points set anew in each or once, and some slices."""
    options = {"eps": 1e-3, "dtype": "complex64", "nthreads": thread_count()}
    where = points(fc.SliceOperator(grid), rotations, np.float32)
    whole, flat = volume.astype(np.complex64), np.ascontiguousarray(samples.ravel())

    def caller(kind, given):
        plan = finufft.Plan(kind, volume.shape, isign=-1 if kind == 2 else 1, **options)
        plan.setpts(*where)

        def call():
            if set_points:
                plan.setpts(*where)
            return plan.execute(given)

        return call

    calls = {"slices": caller(2, whole), "adjoints": caller(1, flat)}
    return calls, calls["slices"]().reshape(len(rotations), -1)[:2]


def rates_of(programs, rounds):
    """Return images per second by program and call: medians of rounds that take turns."""
    seconds = {}
    for turn in range(rounds + 1):
        for (name, images), calls in programs.items():
            for kind, call in calls.items():
                began = time.perf_counter()
                call()
                # The first turn warms up.
                if turn:
                    taken = (time.perf_counter() - began) / images
                    seconds.setdefault((name, images, kind), []).append(taken)
    return {key: 1 / float(np.median(values)) for key, values in seconds.items()}


def programs_of(box, count, few):
    """Return what is timed, and the errors of its slices, by program and number of images."""
    rng = np.random.default_rng(0)
    grid = fc.FourierGrid(box)
    volume = rng.standard_normal((box,) * 3, dtype=np.float32)
    half, rotations = grid.from_real(volume), random_rotations(count, rng)
    expected = exact_slices(fc.SliceOperator(grid), volume, rotations[:2])
    programs, errors = {}, {}

    def add(name, images, made):
        calls, samples = made
        programs[name, images], errors[name, images] = calls, relative(samples, expected)

    for images in (few, count):
        chosen = rotations[:images]
        for width, oversampling in ((4, 1.5), (4, 2.0), (5, 1.5)):
            options = {"width": width, "oversampling": oversampling}
            add(f"KB {width}, {oversampling:g}", images, slicer(grid, half, chosen, options))
        samples = fc.SliceOperator(grid, "kaiser_bessel").forward(half, chosen)
        for name, anew in (("finufft", True), ("finufft, points set before", False)):
            add(name, images, transformer(grid, volume, chosen, samples, anew))
    return programs, errors


def speed(quick):
    """Slices and back-projections per second beside finufft at 1e-3, in single precision."""
    print(f"{thread_count()} threads; images/s, medians of rounds that take turns\n")
    print("| N | program | images | error | slices/s | adjoints/s | gradients/s |")
    print("|---|---|---|---|---|---|---|")
    for box, count, few, rounds in ((64, 100, 50, 1),) if quick else PARTS:
        programs, errors = programs_of(box, count, few)
        rates = rates_of(programs, rounds)
        for (name, images), calls in programs.items():
            cells = [f"{rates[name, images, kind]:.4g}" for kind in calls] + [""] * (3 - len(calls))
            row = [box, name, images, f"{errors[name, images]:.1e}", *cells]
            print("| " + " | ".join(map(str, row)) + " |")
        for name, images in programs:
            if name.startswith("KB"):
                over = [
                    rates[name, images, kind] / rates["finufft", images, kind]
                    for kind in ("slices", "adjoints")
                ]
                print(
                    f"{name} over finufft, {images} images: "
                    f"slices {over[0]:.1f} x, adjoints {over[1]:.1f} x"
                )
        for name in dict.fromkeys(name for name, _ in programs if name.startswith("KB")):
            over = [
                one_more("finufft", programs, rates, kind) / one_more(name, programs, rates, kind)
                for kind in ("slices", "adjoints")
            ]
            print(
                f"{name} over finufft, one image more: "
                f"slices {over[0]:.1f} x, adjoints {over[1]:.1f} x"
            )
        print(flush=True)


def one_more(name, programs, rates, kind):
    """Return the seconds of one image more: the transform of the whole grid left out."""
    few, many = sorted(images for other, images in programs if other == name)
    seconds = [images / rates[name, images, kind] for images in (few, many)]
    return (seconds[1] - seconds[0]) / (many - few)


def peak_of(program, box):
    """Return the MB that slices and gradients take beside the data, in a process of its own."""
    grid = fc.FourierGrid(box)
    half, rotations = grid.zeros(), random_rotations(4, np.random.default_rng(0))
    small, few = fc.FourierGrid(16), rotations[:1]
    if program == "KB 5, 1.5":
        for call in slicer(small, small.zeros(), few, {})[0].values():
            call()
        before = peak_memory()
        calls, _ = slicer(grid, half, rotations, {})
    else:
        volume = np.zeros((box,) * 3, np.float32)
        samples = np.zeros((4, fc.SliceOperator(grid).samples), np.complex64)
        before = peak_memory()
        calls, _ = transformer(grid, volume, rotations, samples, True)
    for call in calls.values():
        call()
    return peak_memory() - before, peak_memory()


def peak_memory():
    """Return the most memory this process has held, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(quick):
    """Memory that an oversampled operator takes, in processes of their own."""
    print("| N | program | MB | MB of the whole process |\n|---|---|---|---|")
    for box in (64,) if quick else (128, 256):
        for program in ("KB 5, 1.5", "finufft 1e-3"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                taken, whole = pool.apply(peak_of, (program, box))
            print(f"| {box} | {program} | {taken:.0f} | {whole:.0f} |", flush=True)


def main():
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("accuracy", "maps", "speed", "memory"))
    parser.add_argument("--quick", action="store_true", help="small boxes")
    parser.add_argument("--figure", help="PNG of the maps' curves")
    parser.add_argument("--seeds", type=int, default=8, help="data sets of the maps, 2 or more")
    parser.add_argument("--threads", type=int)
    chosen = parser.parse_args()
    with use_threads(chosen.threads):
        if chosen.part == "accuracy":
            accuracy(chosen.quick)
        elif chosen.part == "maps":
            maps(chosen.quick, chosen.figure, chosen.seeds)
        elif chosen.part == "speed":
            speed(chosen.quick)
        else:
            memory(chosen.quick)


if __name__ == "__main__":
    main()

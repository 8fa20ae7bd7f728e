"""The command line: ``fastcryo`` and the names in `COMMANDS`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from fastcryo.errors import InputError
from fastcryo.options import build_parser

INTERRUPTED = 130
# Options without a default of their own: the settings', or the published ones, hold.
OVERRIDES = (
    "preconditioner",
    "step",
    "initial_step",
    "variance_reduction",
    "armijo",
    "threshold",
    "epochs",
    "batch_size",
    "regularization",
    "noise",
)


def run_reconstruct(arguments: argparse.Namespace) -> None:
    """Run ``fastcryo reconstruct``."""
    from fastcryo import console
    from fastcryo.forecast import plan_run
    from fastcryo.reconstruct import reconstruct

    settings = reconstruct_settings(arguments)
    particles = _read(arguments)
    output = console.new_console()
    console.print_particles(output, particles)
    plan = plan_run(particles, settings, arguments.prepared, arguments.out)
    for line in plan.lines():
        output.print(line, markup=False)
    if arguments.dry_run:
        output.print(f"dry run: would write to {arguments.out}")
        return
    with console.progress_report(output) as report:
        result = reconstruct(
            particles,
            arguments.out,
            settings,
            mask=arguments.mask,
            prepared=arguments.prepared,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            report=report,
            command=arguments.command_line,
        )
    console.print_reconstruction(output, result)


def reconstruct_settings(arguments: argparse.Namespace):
    """Return the settings that the options ask for: defaults, or the published ones, overridden."""
    from dataclasses import replace

    from fastcryo.settings import PUBLISHED, Settings

    given = {name: value for name, value in vars(arguments).items() if name in OVERRIDES}
    base = PUBLISHED if arguments.published else Settings()
    return replace(
        base,
        solver=arguments.solver,
        interpolation=arguments.interpolation,
        backend=arguments.backend,
        oversampling=arguments.oversampling,
        width=arguments.width,
        compat=arguments.compat,
        symmetry=arguments.sym,
        maxres=arguments.maxres,
        box=arguments.box,
        prepared_type=arguments.prepared_type,
        subset=arguments.subset,
        invert=arguments.invert,
        seed=arguments.seed,
        **given,
    )


def run_info(arguments: argparse.Namespace) -> None:
    """Run ``fastcryo info``."""
    from fastcryo import console
    from fastcryo.info import describe, print_info
    from fastcryo.io.atomic import replacing

    info = describe(_read(arguments, need_images=False))
    print_info(info, console.new_console())
    if arguments.json:
        with replacing(arguments.json) as temporary:
            temporary.write_text(info.as_json())


def run_select(arguments: argparse.Namespace) -> None:
    """Run ``fastcryo select``."""
    import numpy as np

    from fastcryo import console
    from fastcryo.io.relion import write_subset
    from fastcryo.selection import noted, with_usable_images

    out = Path(arguments.out)
    if out.suffix != ".star":
        raise InputError(f"{out}: a STAR file is written, give a name that ends in .star")
    if out.exists() and not arguments.overwrite:
        raise InputError(f"{out}: exists, choose another --out or add --overwrite")
    output = console.new_console()
    particles = _read(arguments, need_images=False)
    if arguments.subset:
        kept = particles.select(np.flatnonzero(particles.half == arguments.subset))
        if len(kept) == 0:
            raise InputError(
                f"{particles.source}: no particle has rlnRandomSubset {arguments.subset}"
            )
        reason = (len(particles) - len(kept), f"by --subset {arguments.subset}")
        particles = noted(particles, kept, [reason])
    if arguments.check_images:
        with console.progress_report(output) as report:
            particles = with_usable_images(
                particles, lambda done, total: report("reading images", done, total, "")
            )
    console.print_particles(output, particles)
    write_subset(out, particles)
    output.print(f"written: {out}, {len(particles)} particles", markup=False)


def run_condition(arguments: argparse.Namespace) -> None:
    """Run ``fastcryo condition``."""
    from dataclasses import replace

    from fastcryo import console
    from fastcryo.condition_report import condition

    particles = _read(arguments, need_images=False)
    if arguments.image_size is not None:
        particles = replace(particles, box=arguments.image_size)
    if particles.box is None:
        raise InputError(
            f"{particles.source}: does not say how large the images are, give --image-size"
        )
    output = console.new_console()
    console.print_particles(output, particles)
    with console.progress_report(output) as report:
        result = condition(
            particles,
            arguments.out,
            box=arguments.box,
            maxres=arguments.maxres,
            regularization=arguments.regularization,
            symmetry=arguments.sym,
            interpolation=arguments.interpolation,
            backend=arguments.backend,
            oversampling=arguments.oversampling,
            width=arguments.width,
            overwrite=arguments.overwrite,
            report=report,
            command=arguments.command_line,
        )
    for line in result.lines():
        output.print(line, markup=False)
    output.print(f"report: {Path(arguments.out) / 'conditioning.png'}")


def run_simulate(arguments: argparse.Namespace) -> None:
    """Run ``fastcryo simulate``."""
    from fastcryo import console
    from fastcryo.simulate import simulate

    output = console.new_console()
    with console.progress_report(output) as report:
        simulate(
            arguments.folder,
            source=arguments.source,
            overwrite=arguments.overwrite,
            progress=lambda done, total: report("simulating images", done, total, ""),
            box=arguments.box,
            pixel_size=arguments.angpix,
            count=arguments.count,
            snr=None if arguments.no_noise else arguments.snr,
            ctf=not arguments.no_ctf,
            defocus=tuple(arguments.defocus),
            astigmatism=arguments.astigmatism,
            voltage=arguments.kv,
            spherical_aberration=arguments.cs,
            amplitude_contrast=arguments.ac,
            phase_shift=arguments.phase_shift,
            bfactor=arguments.bfactor,
            shift_std=arguments.shift_std,
            orientations=arguments.orientations,
            concentration=arguments.concentration,
            invert=arguments.invert,
            seed=arguments.seed,
        )
    output.print(f"written: {Path(arguments.folder) / 'particles.star'} and its images and truth")


def run_fsc(arguments: argparse.Namespace) -> None:
    """Run ``fastcryo fsc``."""
    from fastcryo import console
    from fastcryo.compare import compare_files

    comparison = compare_files(
        arguments.map1,
        arguments.map2,
        mask=arguments.mask,
        pixel_size=arguments.angpix,
        threshold=arguments.threshold,
    )
    console.print_comparison(console.new_console(), comparison)
    if arguments.out:
        comparison.save(arguments.out, arguments.command_line, arguments.overwrite)


def run_postprocess(arguments: argparse.Namespace) -> None:
    """Run ``fastcryo postprocess``."""
    from fastcryo import console
    from fastcryo.postprocess_files import postprocess_files

    after, notes = postprocess_files(
        arguments.half1,
        arguments.half2,
        arguments.out,
        mask=arguments.mask,
        mask_threshold=arguments.mask_threshold,
        pixel_size=arguments.angpix,
        b_factor=arguments.b_factor,
        seed=arguments.seed,
        overwrite=arguments.overwrite,
        command=arguments.command_line,
    )
    output = console.new_console()
    console.print_postprocessed(output, after)
    for note in notes:
        output.print(f"note: {note}", markup=False)
    output.print(f"written: {Path(arguments.out) / 'postprocess.mrc'} and its curves and picture")


def run_demo(arguments: argparse.Namespace) -> None:
    """Run ``fastcryo demo``."""
    from fastcryo import console
    from fastcryo.demo import demo

    output = console.new_console()
    with console.progress_report(output) as report:
        result = demo(
            arguments.out,
            overwrite=arguments.overwrite,
            report=report,
            command=arguments.command_line,
        )
    console.print_demo(output, result)


def _particles_path(arguments: argparse.Namespace) -> str:
    if (arguments.positional_input is None) == (arguments.input is None):
        raise InputError("particles: give one file, as argument or with --i")
    return arguments.positional_input or arguments.input


def _read(arguments: argparse.Namespace, need_images: bool = True):
    from fastcryo.particles import read_particles

    chosen = arguments.select is not None or arguments.limit is not None
    particles = read_particles(
        _particles_path(arguments),
        image_root=arguments.image_root,
        passthrough=arguments.passthrough,
        pixel_size=arguments.angpix,
        need_images=need_images and not chosen,
        mixed_sizes=arguments.mixed_sizes,
    )
    if not chosen:
        return particles
    from fastcryo.particles import image_problems
    from fastcryo.selection import choose

    particles = choose(particles, arguments.select, arguments.limit, arguments.passthrough)
    problems = image_problems(particles) if need_images else ()
    if problems:
        raise InputError(problems[0])
    return particles


COMMANDS = {
    "demo": run_demo,
    "simulate": run_simulate,
    "info": run_info,
    "select": run_select,
    "condition": run_condition,
    "reconstruct": run_reconstruct,
    "fsc": run_fsc,
    "postprocess": run_postprocess,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0, 2 for input that cannot be used, 130 for Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    arguments = parser.parse_args(argv)
    arguments.command_line = shlex.join(["fastcryo", *argv])
    from fastcryo.threads import use_threads

    try:
        with use_threads(arguments.j):
            COMMANDS[arguments.command](arguments)
    except InputError as error:
        if arguments.debug:
            raise
        return _fail(f"error: {error}")
    except MemoryError as error:
        if arguments.debug:
            raise
        return _fail(f"error: not enough memory ({error}); use a smaller --box or --maxres")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        message = "interrupted"
        if arguments.command == "reconstruct":
            message += "; finished epochs are kept, repeat the command with --resume to go on"
        _fail(message)
        return INTERRUPTED
    return 0


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 2

"""The command line: ``fastcryo`` and the names in `COMMANDS`."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastcryo.communicator import ALONE, Communicator, launched, launched_as
from fastcryo.errors import InputError
from fastcryo.options import build_parser

INTERRUPTED = 130
# Commands that several ranks share.
SHARED = ("reconstruct", "condition")
# A failure that all ranks meet is told by rank 0 alone: the others wait, seconds, to be ended.
PATIENCE = 4.0
# Launchers pass on what a rank prints, but not what they have not read when it ends the job.
TIME_TO_TELL = 0.5
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
    "scale",
)


def run_reconstruct(arguments: argparse.Namespace) -> None:
    """Run ``fastcryo reconstruct``."""
    from fastcryo import console
    from fastcryo.forecast import plan_run
    from fastcryo.free_memory import free_memory
    from fastcryo.precompile import precompile_beside
    from fastcryo.reconstruct import reconstruct

    settings = reconstruct_settings(arguments)
    communicator = arguments.communicator
    particles = communicator.once(lambda: _read(arguments))
    output = _console(communicator)
    console.print_particles(output, particles)
    free = free_memory(communicator)
    plan = communicator.once(
        lambda: plan_run(
            particles, settings, arguments.prepared, arguments.out, free, communicator.size
        )
    )
    for line in plan.lines():
        output.print(line, markup=False)
    if arguments.dry_run:
        output.print(f"dry run: would write to {arguments.out}")
        return
    if communicator.size == 1 and settings.interpolation == "trilinear":
        precompile_beside()
    with console.progress_report(output) as report:
        result = reconstruct(
            particles,
            arguments.out,
            settings,
            mask=arguments.mask,
            solvent_mask=arguments.solvent_mask,
            prepared=arguments.prepared,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            report=report,
            command=arguments.command_line,
            communicator=communicator,
        )
    if result is not None:
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
        normalize=arguments.normalize,
        ramp=arguments.ramp,
        seed=arguments.seed,
        **given,
    )


def run_info(arguments: argparse.Namespace) -> None:
    """Run ``fastcryo info``."""
    from fastcryo import console
    from fastcryo.info import describe, print_info
    from fastcryo.io.atomic import replacing

    info = describe(_read(arguments, need_images=False), arguments.sym)
    print_info(info, console.new_console())
    if arguments.json:
        with replacing(arguments.json) as temporary:
            temporary.write_text(info.as_json())


def run_select(arguments: argparse.Namespace) -> None:
    """Run ``fastcryo select``."""
    import numpy as np

    from fastcryo import console
    from fastcryo.io.relion import write_subset
    from fastcryo.selection import images_lost, noted, with_usable_images

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
    lost = images_lost(out, particles)
    if lost is not None:
        output.print(f"note: {lost}", markup=False)


def run_condition(arguments: argparse.Namespace) -> None:
    """Run ``fastcryo condition``."""
    from dataclasses import replace

    from fastcryo import console
    from fastcryo.condition_report import condition

    communicator = arguments.communicator
    particles = communicator.once(lambda: _read(arguments, need_images=False))
    if arguments.image_size is not None:
        particles = replace(particles, box=arguments.image_size)
    if particles.box is None:
        raise InputError(
            f"{particles.source}: does not say how large the images are, give --image-size"
        )
    output = _console(communicator)
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
            communicator=communicator,
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
    from fastcryo.precompile import precompile_beside

    precompile_beside()
    output = console.new_console()
    with console.progress_report(output) as report:
        result = demo(
            arguments.out,
            overwrite=arguments.overwrite,
            report=report,
            command=arguments.command_line,
        )
    console.print_demo(output, result)


def _console(communicator: Communicator):
    """Return the console of a command that ranks share, after a line for each of their machines."""
    from fastcryo import console

    output = console.new_console()
    for line in communicator.describe():
        output.print(line, markup=False)
    return output


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
    """Run a command; return its exit status: 0, 2 for input that cannot be used, 130 for Ctrl-C.

    Where a launcher has started several ranks, the one that fails ends them all.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    communicator, arguments, (rank, _) = ALONE, None, launched_as()
    try:
        with _muted() if rank > 0 else contextlib.nullcontext():
            arguments = build_parser().parse_args(argv)
            arguments.command_line = shlex.join(["fastcryo", *argv])
            communicator = arguments.communicator = launched()
            communicator.watch()
            _run(arguments)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Exception, KeyboardInterrupt) as error:
        status, message = _failure(error, arguments.command)
        alone = communicator.size == 1
        if alone and status != INTERRUPTED and (arguments.debug or status == 1):
            raise
        if not alone:
            time.sleep(PATIENCE * rank / (rank + 1))
            message = f"rank {rank} of {communicator.size}: {message}"
            if arguments.debug or status == 1:
                traceback.print_exc()
        # Without a communicator every rank fails alike.
        if not alone or rank == 0:
            said = message if status == INTERRUPTED else f"error: {message}"
            print(said, file=sys.stderr, flush=True)
        if not alone:
            time.sleep(TIME_TO_TELL)
        communicator.abort(status)
        return status
    return 0


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Print nothing: what all ranks have to say, rank 0 says."""
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _run(arguments: argparse.Namespace) -> None:
    from fastcryo.threads import most_threads, use_threads

    communicator, threads = arguments.communicator, arguments.j
    if communicator.size > 1:
        if arguments.command not in SHARED:
            raise InputError(
                f"fastcryo {arguments.command} runs as one process, leave out mpiexec "
                f"({' and '.join(SHARED)} can be shared)"
            )
        own = communicator.threads()
        threads = threads or min(own, most_threads())
    with use_threads(threads):
        COMMANDS[arguments.command](arguments)


def _failure(error: BaseException, command: str) -> tuple[int, str]:
    """Return exit status and message of what stopped a command; 1 is an error of fastcryo's own."""
    if isinstance(error, InputError):
        return 2, str(error)
    if isinstance(error, MemoryError):
        smaller = "--box or --count" if command == "simulate" else "--box or --maxres"
        return 2, f"not enough memory ({error}); use a smaller {smaller}"
    if isinstance(error, KeyboardInterrupt):
        kept = "; finished epochs are kept, repeat the command with --resume to go on"
        return INTERRUPTED, "interrupted" + (kept if command == "reconstruct" else "")
    return 1, f"{type(error).__name__}: {error}"

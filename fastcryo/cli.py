"""The command line: ``fastcryo demo | simulate | info | condition | reconstruct | fsc``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fastcryo._version import __version__
from fastcryo.errors import InputError

INTERRUPTED = 130
# Options without a default of their own: the settings', or the published ones, hold.
OVERRIDES = (
    "preconditioner",
    "step",
    "initial_step",
    "armijo",
    "threshold",
    "epochs",
    "batch_size",
    "regularization",
    "noise",
)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> None:
        """Print the error in one line and leave with status 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def option(parser: argparse.ArgumentParser, *names: str, **keywords) -> None:
    """Add an option under its names, each also with underscores for dashes, as RELION spells."""
    both = list(names)
    for name in names:
        spelled = "--" + name[2:].replace("-", "_")
        if name.startswith("--") and spelled not in both:
            both.append(spelled)
    keywords.setdefault("dest", names[0].lstrip("-").replace("-", "_"))
    parser.add_argument(*both, **keywords)


def positive_integer(text: str) -> int:
    """Parse a whole number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def positive_number(text: str) -> float:
    """Parse a number above zero."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a positive number")
    return value


def step_rule(text: str) -> str | float:
    """Parse a step rule or a constant step."""
    if text in ("armijo", "exact", "decay"):
        return text
    try:
        return positive_number(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: choose decay, armijo, exact or a positive number"
        ) from None


def number_or_wiener(text: str) -> float | None:
    """Parse lambda: ``wiener`` (None) or a number of at least zero."""
    if text == "wiener":
        return None
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be 'wiener' or a number of at least 0")
    return value


def preconditioner_name(text: str) -> str | None:
    """Parse a preconditioner's name; ``none`` is None."""
    if text not in ("gridding", "exact", "hutchinson", "none"):
        raise argparse.ArgumentTypeError(f"{text!r}: choose gridding, exact, hutchinson or none")
    return None if text == "none" else text


def threshold_rule(text: str) -> str | float | None:
    """Parse a threshold: ``auto``, ``none`` or a number."""
    return {"auto": "auto", "none": None}.get(text) if text in ("auto", "none") else float(text)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="fastcryo",
        description="Cryo-EM reconstruction with known poses by preconditioned stochastic "
        "gradient descent.",
    )
    parser.add_argument("--version", action="version", version=f"fastcryo {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_demo, _simulate, _info, _condition, _reconstruct, _fsc):
        add(commands)
    return parser


def _command(commands, name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    option(parser, "--j", "--threads", type=positive_integer, help="threads (default: all)")
    option(parser, "--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run)
    return parser


def _input(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("positional_input", nargs="?", metavar="PARTICLES", help=help)
    option(parser, "--i", "--input", dest="input", metavar="PARTICLES", help="the same")
    option(
        parser,
        "--image-root",
        "--datadir",
        metavar="DIR",
        help="folder that the image names in the file are relative to",
    )
    option(parser, "--passthrough", metavar="FILE", help="cryoSPARC passthrough file")
    option(
        parser,
        "--angpix",
        type=positive_number,
        help="pixel size of the images in angstrom, if the file's is missing or wrong",
    )


def _output(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    option(
        parser,
        "--out",
        "--o",
        "--output",
        required=default is None,
        default=default,
        metavar="DIR",
        help="output folder" + (f" (default: {default})" if default else ""),
    )
    option(parser, "--overwrite", action="store_true", help="replace an earlier run's files")


def _reconstruct(commands) -> None:
    parser = _command(
        commands,
        "reconstruct",
        run_reconstruct,
        "Reconstruct half-maps and the full map from particles with poses.",
    )
    _input(parser, "particles.star (RELION) or particles.cs (cryoSPARC)")
    _output(parser)
    solver = parser.add_argument_group("solver", argument_default=argparse.SUPPRESS)
    option(solver, "--solver", choices=("sgd", "cg", "lbfgs", "wiener"), default="sgd")
    option(solver, "--interpolation", choices=("trilinear", "nearest"), default="trilinear")
    option(
        solver,
        "--preconditioner",
        type=preconditioner_name,
        metavar="gridding|exact|hutchinson|none",
        help="default: gridding",
    )
    option(
        solver,
        "--step",
        type=step_rule,
        metavar="decay|armijo|exact|NUMBER",
        help="default: decay",
    )
    option(solver, "--initial-step", type=positive_number, help="first step size")
    option(solver, "--armijo", type=float, help="constant c of the Armijo condition")
    option(
        solver,
        "--threshold",
        type=threshold_rule,
        metavar="auto|none|NUMBER",
        help="lower bound of the estimated diagonal",
    )
    option(solver, "--epochs", "--iter", type=positive_integer, help="default: 10")
    option(
        solver,
        "--batch-size",
        type=positive_integer,
        help="images per minibatch (default: a tenth of the set, from 50 to 1000)",
    )
    option(
        solver,
        "--regularization",
        type=number_or_wiener,
        metavar="wiener|NUMBER",
        help="prior by shell from the half-maps (wiener, default), or a constant lambda",
    )
    option(
        solver,
        "--noise",
        choices=("estimated", "unit"),
        help="noise by shell from the corners of the images (default), or variance 1",
    )
    option(
        solver,
        "--published",
        action="store_true",
        default=False,
        help="Algorithm 1 of the paper with its published settings (hutchinson, armijo 0.99, "
        "batches of 1000, lambda 1e-8, noise 1); other options still override",
    )
    data = parser.add_argument_group("data")
    option(data, "--maxres", type=positive_number, help="highest resolution used, angstrom")
    option(data, "--box", type=positive_integer, help="Fourier-crop the images to this side")
    option(data, "--subset", type=int, choices=(1, 2), default=0, help="only this half-set")
    option(data, "--invert", action="store_true", help="protein is dark in the images")
    option(data, "--mask", metavar="MRC", help="mask for the FSC, values 0 to 1")
    option(data, "--seed", "--random-seed", type=int, default=0, help="default: 0")
    option(parser, "--resume", "--continue", action="store_true", help="go on after a killed run")
    option(parser, "--dry-run", action="store_true", help="read, print the plan, do nothing")


def _info(commands) -> None:
    parser = _command(
        commands, "info", run_info, "Print what would be read from particles, and what is wrong."
    )
    _input(parser, "particles.star or particles.cs")
    option(parser, "--json", metavar="FILE", help="write the same as JSON")


def _condition(commands) -> None:
    parser = _command(
        commands,
        "condition",
        run_condition,
        "Measure what limits the reconstruction of particles, from their metadata.",
    )
    _input(parser, "particles.star or particles.cs; no image is read")
    _output(parser)
    option(
        parser,
        "--box",
        type=positive_integer,
        help="Fourier-crop the images to this side for the spectra (default: 48)",
    )
    option(parser, "--image-size", type=positive_integer, help="side of the images, if unknown")
    option(parser, "--maxres", type=positive_number, help="highest resolution used, angstrom")
    option(parser, "--regularization", type=float, default=1e-8, help="lambda (default: 1e-8)")
    option(parser, "--interpolation", choices=("trilinear", "nearest"), default="trilinear")


def _simulate(commands) -> None:
    parser = _command(
        commands,
        "simulate",
        run_simulate,
        "Write a data set with exact projections: particles.star, particles.mrcs, truth.mrc.",
    )
    parser.add_argument("folder", metavar="OUT", help="output folder")
    option(parser, "--overwrite", action="store_true", help="replace an earlier data set")
    option(
        parser,
        "--source",
        "--map",
        "--pdb",
        metavar="FILE",
        help="MRC map, PDB or mmCIF file (default: a protein-like phantom)",
    )
    option(parser, "--box", type=positive_integer, help="default: 64 (or the map's)")
    option(parser, "--angpix", type=positive_number, default=None, help="default: 3 (or the map's)")
    option(parser, "--count", type=positive_integer, default=1000, help="default: 1000")
    option(
        parser,
        "--snr",
        type=positive_number,
        default=0.1,
        help="variance of the signal over that of the noise (default: 0.1)",
    )
    option(parser, "--no-noise", action="store_true")
    option(parser, "--no-ctf", action="store_true")
    option(
        parser,
        "--defocus",
        type=positive_number,
        nargs=2,
        default=(10000.0, 25000.0),
        metavar=("MIN", "MAX"),
        help="angstrom (default: 10000 25000)",
    )
    option(
        parser,
        "--astigmatism",
        type=float,
        default=200.0,
        help="standard deviation of U - V, angstrom (default: 200)",
    )
    option(parser, "--phase-shift", type=float, default=0.0, help="degrees (default: 0)")
    option(parser, "--bfactor", type=float, default=0.0, help="square angstrom (default: 0)")
    option(parser, "--kv", type=positive_number, default=300.0, help="voltage (default: 300)")
    option(parser, "--cs", type=float, default=2.7, help="spherical aberration, mm (default: 2.7)")
    option(parser, "--ac", type=float, default=0.1, help="amplitude contrast (default: 0.1)")
    option(
        parser,
        "--shift-std",
        type=float,
        default=3.0,
        help="standard deviation of the origin offsets, angstrom (default: 3)",
    )
    option(parser, "--orientations", choices=("uniform", "preferred"), default="uniform")
    option(
        parser,
        "--concentration",
        type=positive_number,
        default=5.0,
        help="of preferred views about z (default: 5)",
    )
    option(parser, "--invert", action="store_true", help="protein dark on white")
    option(parser, "--seed", "--random-seed", type=int, default=0, help="default: 0")


def _fsc(commands) -> None:
    parser = _command(commands, "fsc", run_fsc, "Fourier shell correlation of two maps.")
    parser.add_argument("map1", metavar="A.mrc")
    parser.add_argument("map2", metavar="B.mrc")
    option(parser, "--mask", metavar="MRC", help="values 0 to 1")
    option(parser, "--angpix", type=positive_number, help="voxel size, if the header's is wrong")
    option(parser, "--threshold", type=float, default=0.143, help="default: 0.143")
    option(
        parser, "--out", "--o", metavar="STAR", help="write the curves as STAR (and .xml beside it)"
    )
    option(parser, "--overwrite", action="store_true")


def _demo(commands) -> None:
    parser = _command(
        commands,
        "demo",
        run_demo,
        "Simulate particles, reconstruct them, compare with the truth and with the paper.",
    )
    _output(parser, default="fastcryo-demo")


def run_reconstruct(arguments: argparse.Namespace) -> None:
    """Run ``fastcryo reconstruct``."""
    from fastcryo import console
    from fastcryo.io.mrc import read_map
    from fastcryo.reconstruct import memory_needed, reconstruct

    settings = reconstruct_settings(arguments)
    particles = _read(arguments)
    output = console.new_console()
    console.print_particles(output, particles)
    needed = memory_needed(particles, settings)
    output.print(f"memory: about {needed / 2**30:.2f} GiB")
    if arguments.dry_run:
        output.print(f"dry run: would write to {arguments.out}")
        return
    mask = None
    if arguments.mask:
        mask, _ = read_map(arguments.mask, cubic=True)
    with console.progress_report(output) as report:
        result = reconstruct(
            particles,
            arguments.out,
            settings,
            mask=mask,
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
        maxres=arguments.maxres,
        box=arguments.box,
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
            interpolation=arguments.interpolation,
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

    return read_particles(
        _particles_path(arguments),
        image_root=arguments.image_root,
        passthrough=arguments.passthrough,
        pixel_size=arguments.angpix,
        need_images=need_images,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0, 2 for input that cannot be used, 130 for Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    arguments = parser.parse_args(argv)
    arguments.command_line = shlex.join(["fastcryo", *argv])
    from fastcryo.threads import use_threads

    try:
        with use_threads(arguments.j):
            arguments.run(arguments)
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

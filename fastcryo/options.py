"""The options of all commands."""

from __future__ import annotations

import argparse

from fastcryo._version import __version__
from fastcryo.background import USUAL_RADIUS
from fastcryo.option_groups import (
    Parser,
    backend,
    command,
    option,
    output_folder,
    particle_input,
    symmetry,
    window,
)
from fastcryo.option_values import (
    background_radius,
    number,
    number_from_zero,
    positive_integer,
    positive_number,
    preconditioner_name,
    prior,
    seed,
    step_rule,
    threshold_rule,
    variance_reduction_name,
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="fastcryo",
        description="Cryo-EM reconstruction with known poses by preconditioned stochastic "
        "gradient descent.",
    )
    parser.add_argument("--version", action="version", version=f"fastcryo {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_demo, _simulate, _info, _select, _condition, _reconstruct, _fsc, _postprocess):
        add(commands)
    return parser


def _reconstruct(commands) -> None:
    parser = command(
        commands,
        "reconstruct",
        "Reconstruct half-maps and the full map from particles with poses.",
    )
    particle_input(parser, "particles.star (RELION) or particles.cs (cryoSPARC)")
    output_folder(parser)
    solver = parser.add_argument_group("solver", argument_default=argparse.SUPPRESS)
    option(solver, "--solver", choices=("sgd", "cg", "lbfgs", "wiener"), default="sgd")
    window(solver)
    option(
        solver,
        "--compat",
        choices=("relion",),
        default=None,
        help="relion: its radial correction, for trilinear with --oversampling 2",
    )
    option(
        solver,
        "--solvent-mask",
        default=None,
        metavar="MRC|sphere[:R]|taper|none",
        help="for kaiser_bessel: multiply the map by a mask during the solution; taper (default) "
        "falls off towards the faces of the box as trilinear maps do, and is part of the others",
    )
    backend(solver)
    option(
        solver,
        "--preconditioner",
        type=preconditioner_name,
        metavar="gridding|exact|hutchinson|none",
        help="default: exact for cg and lbfgs, else gridding",
    )
    option(
        solver,
        "--step",
        type=step_rule,
        metavar="decay|armijo|exact|NUMBER",
        help="default: 1; decay without variance reduction",
    )
    option(
        solver,
        "--variance-reduction",
        type=variance_reduction_name,
        metavar="svrg|none",
        help="correct the gradients of minibatches by that of all images (default: svrg)",
    )
    option(solver, "--initial-step", type=positive_number, help="first step size")
    option(solver, "--armijo", type=number, help="constant c of the Armijo condition")
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
        type=prior,
        metavar="wiener|NUMBER|FILE",
        help="prior by shell from the half-maps (wiener, default), a constant lambda, or a file "
        "with lambda of shell 0, 1, ... to the last, one a line, in units of J (see the report)",
    )
    option(
        solver,
        "--noise",
        choices=("estimated", "residuals", "unit"),
        help="noise by shell from the corners of the images (estimated, default), from what first "
        "half-maps leave of them (residuals), or variance 1 (unit)",
    )
    option(
        solver,
        "--scale",
        choices=("none", "fitted", "file"),
        help="scale of every image's signal: 1 (none, default), fitted to the projection of a "
        "first map of its half-set, or rlnNormCorrection, rlnGroupScaleCorrection or "
        "alignments3D/alpha of the file",
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
    symmetry(data)
    option(data, "--maxres", type=positive_number, help="highest resolution used, angstrom")
    option(data, "--box", type=positive_integer, help="Fourier-crop the images to this side")
    option(
        data,
        "--prepared",
        metavar="DIR",
        help="keep the prepared images in this folder, for sets larger than memory and for later "
        "runs with the same particles and settings",
    )
    option(
        data,
        "--prepared-type",
        choices=("float32", "float16", "int16"),
        default="float32",
        help="numbers in that folder: float16 and int16 take half the space (default: float32)",
    )
    option(data, "--subset", type=int, choices=(1, 2), default=0, help="only this half-set")
    option(data, "--invert", action="store_true", help="protein is dark in the images")
    option(
        data,
        "--normalize",
        type=background_radius,
        nargs="?",
        const=USUAL_RADIUS,
        default=None,
        metavar="RADIUS",
        help="bring the background beyond RADIUS to mean 0, standard deviation 1: angstrom, or a "
        f"part of the side of the box below 1 (without a number {USUAL_RADIUS}, as RELION)",
    )
    option(data, "--ramp", action="store_true", help="with --normalize: take off a plane first")
    option(
        data,
        "--mask",
        metavar="MRC|auto|sphere[:R]",
        help="mask for the FSC: a file with values 0 to 1, from the map, or a ball of R angstrom",
    )
    option(data, "--seed", "--random-seed", type=seed, default=0, help="default: 0")
    option(parser, "--resume", "--continue", action="store_true", help="go on after a killed run")
    option(parser, "--dry-run", action="store_true", help="read, print the plan, do nothing")


def _info(commands) -> None:
    parser = command(
        commands, "info", "Print what would be read from particles, and what is wrong."
    )
    particle_input(parser, "particles.star or particles.cs")
    symmetry(parser)
    option(parser, "--json", metavar="FILE", help="write the same as JSON")


def _select(commands) -> None:
    parser = command(
        commands, "select", "Write some of the particles of a file as STAR, with all its columns."
    )
    particle_input(parser, "particles.star or particles.cs")
    option(parser, "--out", "--o", "--output", required=True, metavar="STAR", help="file to write")
    option(parser, "--overwrite", action="store_true", help="replace an earlier file")
    option(parser, "--subset", type=int, choices=(1, 2), default=0, help="only this half-set")
    option(
        parser,
        "--check-images",
        action="store_true",
        help="read all images, leave out those that are unreadable, NaN, infinite or constant",
    )


def _condition(commands) -> None:
    parser = command(
        commands,
        "condition",
        "Measure what limits the reconstruction of particles, from their metadata.",
    )
    particle_input(parser, "particles.star or particles.cs; no image is read")
    output_folder(parser)
    option(
        parser,
        "--box",
        type=positive_integer,
        help="Fourier-crop the images to this side for the spectra (default: 48)",
    )
    option(parser, "--image-size", type=positive_integer, help="side of the images, if unknown")
    option(parser, "--maxres", type=positive_number, help="highest resolution used, angstrom")
    symmetry(parser)
    option(
        parser,
        "--regularization",
        type=number_from_zero,
        default=1e-8,
        help="lambda (default: 1e-8)",
    )
    window(parser)
    backend(parser)


def _simulate(commands) -> None:
    parser = command(
        commands,
        "simulate",
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
        type=number,
        default=200.0,
        help="standard deviation of U - V, angstrom (default: 200)",
    )
    option(parser, "--phase-shift", type=number, default=0.0, help="degrees (default: 0)")
    option(parser, "--bfactor", type=number, default=0.0, help="square angstrom (default: 0)")
    option(parser, "--kv", type=positive_number, default=300.0, help="voltage (default: 300)")
    option(parser, "--cs", type=number, default=2.7, help="spherical aberration, mm (default: 2.7)")
    option(parser, "--ac", type=number, default=0.1, help="amplitude contrast (default: 0.1)")
    option(
        parser,
        "--shift-std",
        type=number,
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
    option(parser, "--seed", "--random-seed", type=seed, default=0, help="default: 0")


def _fsc(commands) -> None:
    parser = command(commands, "fsc", "Fourier shell correlation of two maps.")
    parser.add_argument("map1", metavar="A.mrc")
    parser.add_argument("map2", metavar="B.mrc")
    option(parser, "--mask", metavar="MRC", help="values 0 to 1")
    option(parser, "--angpix", type=positive_number, help="voxel size, if the header's is wrong")
    option(parser, "--threshold", type=number, default=0.143, help="default: 0.143")
    option(
        parser, "--out", "--o", metavar="STAR", help="write the curves as STAR (and .xml beside it)"
    )
    option(parser, "--overwrite", action="store_true")


def _postprocess(commands) -> None:
    parser = command(
        commands,
        "postprocess",
        "FSC, resolution and its directions, and the sharpened map, from two half-maps.",
    )
    parser.add_argument("half1", metavar="HALF1.mrc")
    parser.add_argument("half2", metavar="HALF2.mrc")
    output_folder(parser)
    option(
        parser,
        "--mask",
        metavar="MRC|auto|sphere[:R]|none",
        default="auto",
        help="a file with values 0 to 1, from the maps (default), a ball of R angstrom, or none",
    )
    option(
        parser,
        "--mask-threshold",
        "--ini-threshold",
        type=number,
        help="density at which an automatic mask begins (default: Otsu's)",
    )
    option(parser, "--angpix", type=positive_number, help="voxel size, if the header's is wrong")
    option(
        parser,
        "--b-factor",
        type=number,
        help="sharpen by exp(B s^2 / 4), square angstrom (default: from the Guinier plot)",
    )
    option(
        parser,
        "--seed",
        "--random-seed",
        type=seed,
        default=0,
        help="of the random phases (default: 0)",
    )


def _demo(commands) -> None:
    parser = command(
        commands,
        "demo",
        "Simulate particles, reconstruct them, compare with the truth and with the paper.",
    )
    output_folder(parser, default="fastcryo-demo")

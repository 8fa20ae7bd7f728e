"""The options that several commands share."""

from __future__ import annotations

import argparse

from fastcryo.interpolation import BACKENDS, INTERPOLATIONS
from fastcryo.option_values import positive_integer, positive_number


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


def command(commands, name: str, text: str) -> argparse.ArgumentParser:
    """Add a command with the options that all have."""
    parser = commands.add_parser(name, help=text, description=text)
    option(parser, "--j", "--threads", type=positive_integer, help="threads (default: all)")
    option(parser, "--debug", action="store_true", help="show the traceback of an error")
    return parser


def particle_input(parser: argparse.ArgumentParser, help: str) -> None:
    """Add what says which particles to read, and how."""
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
    option(
        parser,
        "--select",
        metavar="CONDITION",
        help='use the particles it holds for: "rlnDefocusU < 20000 and rlnClassNumber == 1"',
    )
    option(
        parser,
        "--limit",
        type=positive_integer,
        metavar="N",
        help="use at most N particles, spread evenly over the file and its half-sets",
    )
    option(
        parser,
        "--mixed-sizes",
        choices=("resample", "refuse"),
        default="resample",
        help="optics groups of another pixel size or box: resample to the first (default), or stop",
    )


def symmetry(parser) -> None:
    """Add the point group."""
    option(
        parser,
        "--sym",
        metavar="GROUP",
        default="C1",
        help="point group of the map with RELION's axes: C1 (default), C4, D2, T, O, I1, I2, ...",
    )


def backend(parser) -> None:
    """Add where to compute."""
    option(
        parser,
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="where slices and gradients are computed: auto (default) takes a CUDA card if it "
        "works, else the CPU; cuda-deterministic gives the same bits in every run",
    )


def output_folder(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add the output folder."""
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


def window(parser) -> None:
    """Add the window that slices are read with."""
    option(
        parser,
        "--interpolation",
        choices=INTERPOLATIONS,
        default="trilinear",
        help="kaiser_bessel: slices as exact as the data, at several times the cost",
    )
    option(
        parser,
        "--oversampling",
        type=positive_number,
        default=None,
        help="1.25 to 2, of the Fourier grid (default: 1.5 for kaiser_bessel, else none)",
    )
    option(
        parser,
        "--width",
        type=positive_integer,
        default=None,
        help="cells of the kaiser_bessel window, 4 to 6 (default: 5)",
    )

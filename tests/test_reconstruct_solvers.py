"""Every solver behind ``fastcryo reconstruct``: one map, through assembled operators or not."""

import json

import numpy as np
import pytest

import fastcryo as fc
from fastcryo import assembled, finish, postprocess_files, prior, solve_map
from fastcryo.assembled import assemble_all, operator_memory
from fastcryo.cli import main, reconstruct_settings
from fastcryo.io.mrc import read_map
from fastcryo.options import build_parser
from fastcryo.settings import PUBLISHED, Settings
from fastcryo.threads import use_threads

from . import naive


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Small problems: waking a second thread costs more than it brings, and so do pictures."""
    drawn = (
        (finish.plots, "save_report"),
        (finish, "save_html_report"),
        (postprocess_files, "save_fsc_figure"),
    )
    for module, name in drawn:
        monkeypatch.setattr(module, name, lambda *arguments: None)
    with use_threads(1):
        yield


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "set"
    assert main(f"simulate {folder} --box 24 --count 150 --snr 0.3 --angpix 4".split()) == 0
    return folder / "particles.star"


def run(star, out, options):
    assert main(["reconstruct", str(star), "--out", str(out), *options.split()]) == 0
    return read_map(out / "run_class001.mrc")[0]


def record(out):
    return json.loads((out / "run_history.json").read_text())


@pytest.fixture(scope="module")
def minimiser(star, tmp_path_factory):
    return run(star, tmp_path_factory.mktemp("cg") / "out", "--solver cg")


# The prior keeps kappa below 30, so the error of the map is at most some 30 times the residual:
# 1e-6 for conjugate gradients, 1e-4 for L-BFGS; single precision adds 1e-5. A step of 1 along a
# batch of 50 of 150 images takes off 1 / 30 of the slowest error, three times an epoch.
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ("--solver cg --preconditioner gridding", 1e-4),
        ("--solver lbfgs", 3e-3),
        ("--epochs 100", 1e-3),
        ("--epochs 100 --batch-size 15", 1e-3),
    ],
)
def test_all_solvers_end_at_the_same_map(star, minimiser, tmp_path, options, tolerance):
    found = run(star, tmp_path / "out", options)
    assert np.linalg.norm(found - minimiser) < tolerance * np.linalg.norm(minimiser)
    history = record(tmp_path / "out")
    assert history["notes"] == []
    for name in ("half1", "half2", "full"):
        assert history["maps"][name].get("converged", True)


@pytest.mark.parametrize("solver", ["sgd", "cg"])
def test_operators_that_do_not_fit_are_done_without_and_it_is_said(
    star, tmp_path, monkeypatch, capsys, solver
):
    inside = run(star, tmp_path / "inside", f"--solver {solver} --epochs 3")
    assert "note:" not in capsys.readouterr().out
    monkeypatch.setattr(assembled, "free_memory", lambda communicator: 1000)
    without = run(star, tmp_path / "without", f"--solver {solver} --epochs 3")
    assert "do not fit" in capsys.readouterr().out
    (note,) = record(tmp_path / "without")["notes"]
    assert "every product goes through the images instead" in note
    assert np.linalg.norm(inside - without) < 1e-4 * np.linalg.norm(inside)


def test_bytes_are_named_before_they_are_allocated(monkeypatch):
    data = naive.data_set(16, "ties", count=9)
    problem = fc.KnownPoseProblem.from_arrays(None, data.rotations, 3.0, N=16, regularization=0.0)
    halves = [problem.select([0, 1]), problem.select(np.arange(2, len(problem)))]
    told = []
    monkeypatch.setattr(
        fc.KnownPoseProblem,
        "normal_operator",
        lambda self, limit: pytest.fail("allocated before it was told") if not told else self,
    )
    monkeypatch.setattr(assembled, "merge", lambda first, second, whole: whole)
    assemble_all(problem, halves, lambda *arguments: told.append(arguments))
    needed = operator_memory(problem.operator)
    assert told[0][3] == f"{needed / 2**30:.2g} GiB"
    operators, note = assemble_all(problem, halves, lambda *a: None, limit=needed - 1)
    assert operators == {}
    assert "would take" in note


@pytest.mark.parametrize("interpolation", ["trilinear", "nearest"])
def test_the_operator_of_all_images_is_that_of_both_halves(interpolation):
    data = naive.data_set(16, "ties", count=9)
    problem = fc.KnownPoseProblem.from_arrays(
        None, data.rotations, 3.0, fc.CTF(**data.ctf), N=16,
        regularization=0.0, interpolation=interpolation, dtype="float64",
    )  # fmt: skip
    # Halves of different size count by their images.
    halves = [problem.select([0, 1]), problem.select(np.arange(2, len(problem)))]
    operators, note = assemble_all(problem, halves, lambda *a: None)
    assert note == ""
    Z = problem.grid.from_real(np.random.default_rng(0).normal(size=(16, 16, 16)))
    for name, part in zip(("half1", "half2", "full"), (*halves, problem), strict=True):
        expected = part.hvp(Z)
        limit = 1e-13 * np.abs(expected).max()
        np.testing.assert_allclose(operators[name].matvec(Z), expected, rtol=0, atol=limit)
        damped = operators[name].with_regularization(0.25)
        limit += 1e-13 * np.abs(Z).max()
        np.testing.assert_allclose(damped.matvec(Z), expected + 0.25 * Z, rtol=0, atol=limit)
        diagonal = part.with_regularization(0.25).hessian_diagonal()
        np.testing.assert_allclose(damped.diagonal(), diagonal, rtol=1e-12)
        damped.check(part.with_regularization(0.25))


def test_a_solver_that_does_not_converge_says_so(star, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(solve_map, "MOST_ITERATIONS", 3)
    for solver in ("cg", "lbfgs"):
        run(star, tmp_path / solver, f"--solver {solver}")
        assert f"half2: {solver} did not converge, its residual is" in capsys.readouterr().out
        history = record(tmp_path / solver)
        assert len(history["notes"]) == 3
        assert history["maps"]["full"]["converged"] is False


@pytest.mark.parametrize("solver", ["sgd", "cg", "wiener"])
def test_voxels_that_nothing_determines_are_named(star, tmp_path, capsys, solver):
    options = f"--solver {solver} --regularization 0 --interpolation nearest --epochs 1"
    run(star, tmp_path / "out", options)
    text = " ".join(capsys.readouterr().out.split())
    assert "voxels and lambda is 0" in text
    assert "the innermost is (kx, ky, kz) = (" in text
    assert "they stay zero" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--solver cg --preconditioner hutchinson", "'hutchinson' is unknown, choose exact or"),
        ("--solver wiener --preconditioner none", "choose gridding or exact"),
    ],
)
def test_preconditioners_that_a_solver_cannot_use_are_refused(
    star, tmp_path, capsys, options, words
):
    options = [*options.split(), "--backend", "cpu"]
    assert main(["reconstruct", str(star), "--out", str(tmp_path / "out"), *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


def settings(options):
    arguments = build_parser().parse_args(["reconstruct", "a.star", "--out", "b", *options.split()])
    return reconstruct_settings(arguments)


def test_defaults_depend_on_the_solver_and_on_variance_reduction():
    assert [Settings(solver=s).diagonal for s in ("sgd", "wiener", "cg", "lbfgs")] == [
        "gridding",
        "gridding",
        "exact",
        "exact",
    ]
    default = settings("").sgd_options(4000)
    expected = {"variance_reduction": "svrg", "step": 1.0, "average": False, "batch_size": 400}
    assert default | expected == default
    without = settings("--variance-reduction none").sgd_options(4000)
    expected = {"variance_reduction": None, "step": "decay", "average": True, "initial_step": 1.5}
    assert without | expected == without
    assert settings("--preconditioner none --solver cg").diagonal is None
    assert settings("--step 0.5").sgd_options(4000)["step"] == 0.5


def test_the_published_algorithm_has_no_variance_reduction():
    assert settings("--published") == PUBLISHED
    published = PUBLISHED.sgd_options(10**5)
    assert published["variance_reduction"] is None
    assert published["step"] == "armijo"
    assert published["average"] is False
    assert not PUBLISHED.assembles


def test_lambda_by_shell_comes_from_a_file(star, tmp_path):
    same, cut = tmp_path / "same.txt", tmp_path / "cut.txt"
    same.write_text("# lambda\n" + "1e-3\n" * 12)
    cut.write_text("1e-3\n" * 6 + "1e9  # nothing beyond shell 5\n" * 6)
    options = "--solver wiener --regularization"
    constant = run(star, tmp_path / "constant", f"{options} 1e-3")
    np.testing.assert_allclose(
        run(star, tmp_path / "same", f"{options} {same}"), constant, rtol=0, atol=1e-9
    )
    found = run(star, tmp_path / "cut", f"{options} {cut}")
    assert record(tmp_path / "cut")["settings"]["regularization"][5:7] == [1e-3, 1e9]
    grid = fc.FourierGrid(24)
    # The window's correction mixes shells, so maps before it are compared.
    x = np.sinc((np.arange(24) - 12) / 24) ** 2
    window = x[:, None, None] * x[:, None] * x
    raw = grid.from_real(constant / window)
    raw[grid.shells() > 5] = 0
    expected = grid.to_real(raw) * window
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\n" * 11, "11 values are given, 12 are needed: lambda of the shells 0 to 11"),
        ("1\n" * 13, "shell s is at 96 angstrom / s"),
        ("1\n2 3\n", "line 2 is '2 3', one number of 0 or more is needed"),
        ("1\n-2\n", "line 2 is '-2'"),
        ("1\nnan\n", "line 2 is 'nan'"),
        ("# nothing\n", "holds no numbers"),
        (None, "neither 'wiener' nor a number, nor a file that can be read"),
    ],
)
def test_a_file_of_other_shells_or_words_is_refused(star, tmp_path, capsys, text, words):
    path = tmp_path / "lambda.txt"
    if text is not None:
        path.write_text(text)
    command = [
        "reconstruct",
        str(star),
        "--regularization",
        str(path),
        "--out",
        str(tmp_path / "o"),
    ]
    try:
        status = main(command)
    except SystemExit as ended:
        status = ended.code
    said = capsys.readouterr().err.strip()
    assert (status, len(said.splitlines())) == (2, 1)
    assert words in said


def test_voxels_without_images_are_noted_where_lambda_is_zero(star, tmp_path):
    particles = fc.read_particles(star).select([0, 1])
    problem = fc.KnownPoseProblem.from_particles(
        particles, metadata_only=True, backend="cpu", regularization=0.0
    )
    lam = np.zeros(12)
    lam[:9] = 1.0
    (note,) = prior.gaps(problem, Settings(regularization=tuple(lam)))
    (all_of_them,) = prior.gaps(problem, Settings(regularization=0.0))
    assert note != all_of_them
    assert prior.gaps(problem, Settings(regularization=tuple(lam + 1))) == []

"""The experiments of the paper at the quick size: what each of them claims, in small.

They run from a copy of the folder, so that no real data are beside it, in a process of their own.
"""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["e1", "e2", "e3", "e4", "e5", "e6"]


def call(folder, *arguments):
    """Run ``python -m bench.paper`` in a folder."""
    command = [sys.executable, "-m", "bench.paper", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Return a folder with a copy of the experiments."""
    folder = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "bench" / "paper", folder / "bench" / "paper", ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def out(checkout):
    """Return the folder of the results of all experiments."""
    done = call(checkout, "all", "--size", "quick", "--out", "results")
    assert done.returncode == 0, done.stderr
    return checkout / "results"


@pytest.fixture(scope="module")
def results(out):
    """Return the results of all experiments by name."""
    return {n: json.loads((out / f"{n}_quick.json").read_text())["results"] for n in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_writes_numbers_and_a_figure(out, name):
    record = json.loads((out / f"{name}_quick.json").read_text())
    assert {"experiment", "title", "size", "settings", "machine", "seconds"} <= set(record)
    assert record["machine"]["threads"] >= 1
    assert record["seconds"] > 0
    with open(out / f"{name}_quick.csv", newline="") as stream:
        rows = list(csv.reader(stream))
    assert len(rows) > 1
    assert {len(row) for row in rows} == {len(rows[0])}
    assert (out / f"{name}_quick.png").read_bytes().startswith(b"\x89PNG")


def test_views_are_said_to_be_simulated_where_no_real_ones_are_at_hand(results):
    assert all("simulated views" in results[name]["data"] for name in ("e1", "e3", "e4", "e6"))


def test_condition_number_grows_with_radius_and_obeys_the_bound(results):
    found = results["e1"]
    assert (np.array(found["without_ctf"]) >= found["bound"]).all()
    for curve in ("bound", "without_ctf", "with_ctf"):
        assert (np.diff(found[curve]) >= 0).all()


def test_condition_number_of_every_draw_obeys_the_bound_and_grows_with_the_box(results):
    found = results["e2"]
    assert (np.array(found["condition"]) >= np.array(found["bound"])[:, None]).all()
    assert (np.diff(found["mean"]) > 0).all()
    # The origin is met by every slice, so kappa is n over the number of meetings of the thinnest.
    thinnest = 600 / np.array(found["condition"])
    np.testing.assert_allclose(thinnest, found["least_met"], rtol=1e-4)


def test_running_mean_falls_like_one_over_the_root_of_the_probes(results):
    assert results["e3"]["slope"] == pytest.approx(-0.5, abs=0.1)


def test_coloured_probes_are_exact(results):
    # Eight sums in single precision, eps = 6e-8.
    assert results["e3"]["coloured_products"] == 8
    assert results["e3"]["coloured_error"] < 5e-7


def test_exponential_average_starts_far_off_and_follows_the_mean(results):
    smoothed, mean = results["e3"]["smoothed"], results["e3"]["mean"]
    assert smoothed[0] > 10 * mean[0]
    # It looks back by 1 / (1 - beta) = 10 of the 240 probes: 2 % more error.
    assert smoothed[-1] == pytest.approx(mean[-1], rel=0.1)


def test_every_variant_stays_above_the_floor(results):
    found = results["e4"]
    for variant in found["variants"].values():
        excess = np.array(variant["loss"]) - found["loss_at_floor"]
        assert (excess > 0).all()
        # Losses are sums in single precision; the excess comes from the minimiser and H.
        np.testing.assert_allclose(excess, variant["excess"], atol=1e-6 * found["loss_at_zero"])


def test_both_solvers_find_the_same_floor(results):
    found = results["e4"]
    gain = found["loss_at_zero"] - found["loss_at_floor"]
    assert found["floor"]["CG"]["residual"] <= 1e-6
    assert 0 <= found["floor"]["L-BFGS"]["excess"] < 1e-6 * gain


def test_default_is_nearer_to_the_floor_than_algorithm_1(results):
    last = {name: v["excess"][-1] for name, v in results["e4"]["variants"].items()}
    assert last["fastcryo's default"] < 0.5 * last["estimated (Algorithm 1)"]


def test_preconditioned_variants_beat_plain_sgd(results):
    last = {name: v["excess"][-1] for name, v in results["e4"]["variants"].items()}
    assert max(last["precomputed"], last["estimated (Algorithm 1)"]) < last["plain SGD"]


def test_fsc_to_the_minimiser_rises_and_thresholds_are_read_from_it(results):
    for variant in results["e5"]["variants"].values():
        curves = np.array(variant["fsc"])
        assert curves.shape == (3, len(results["e5"]["shell"]))
        assert (np.abs(curves) <= 1 + 1e-12).all()
        assert curves[-1].mean() > curves[0].mean()
        for limit, epochs in variant["epochs_to"].items():
            for shell, epoch in enumerate(epochs):
                before = curves[: len(curves) if epoch is None else epoch - 1, shell]
                assert (before < float(limit)).all()
                assert epoch is None or curves[epoch - 1, shell] >= float(limit)


def test_preconditioner_lets_all_shells_progress_alike(results):
    spread = {n: max(p) / min(p) for n, p in results["e6"]["progress"].items()}
    assert spread["exact"] < spread["none"]


def test_preconditioner_turns_the_noise_of_steps_upside_down(results):
    # With white noise the variance of grad f is proportional to J, of grad f / J to 1 / J.
    for named in results["e6"]["variance"].values():
        none, exact = np.log(named["none"]), np.log(named["exact"])
        assert np.corrcoef(none, exact)[0, 1] < -0.9


def test_report_fills_the_document_and_can_be_repeated(out, checkout):
    document = checkout / "paper.md"
    shutil.copy(ROOT / "docs" / "paper.md", document)
    assert call(checkout, "report", out, "--into", document).returncode == 0
    first = document.read_text()
    assert first.count("*quick*:") == len(NAMES)
    assert call(checkout, "report", out, "--into", document).returncode == 0
    assert document.read_text() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "{folder}"], "holds no records"),
        (["report", "{folder}/bad"], "is no record"),
        (["e1", "--size", "quick", "--out", "{folder}/bad/e1_quick.json"], "choose another one"),
        (["report", "{out}", "--into", "{folder}/bad/e1_quick.json"], "has no <!-- e1 -->"),
    ],
)
def test_bad_input_is_one_sentence(checkout, out, tmp_path, arguments, message):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "e1_quick.json").write_text("no JSON")
    done = call(checkout, *(a.format(folder=tmp_path, out=out) for a in arguments))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_real_views_are_used_where_they_are_at_hand(tmp_path):
    if not (ROOT.parent / "shared" / "data" / "empiar10076" / "poses_ctf.npz").exists():
        pytest.skip("data made by others not found: empiar10076/poses_ctf.npz")
    assert call(ROOT, "e1", "--size", "quick", "--out", tmp_path).returncode == 0
    record = json.loads((tmp_path / "e1_quick.json").read_text())
    assert record["results"]["data"].startswith("800 views of EMPIAR-10076")

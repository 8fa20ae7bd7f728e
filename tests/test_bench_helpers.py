"""What the figures of bench/ rest on: counts, ratios, the reference of accuracy, leads and aims."""

import json
import sys

import compare
import numpy as np
import pytest
from compare_peers import merge
from measure import cases, counts, ratios, sectors, timing
from measure.aims import aims
from measure.sections_peers import lead, peers_section
from peers import PEERS
from peers.rounds import Worker
from peers.shared import SharedProblem

import fastcryo as fc


def test_every_operation_that_is_timed_has_a_count():
    case = cases.make_case(16, 4)
    for window in ("trilinear", "nearest"):
        for operation in cases.operations(case):
            assert counts.count(operation, window).sample_bytes > 0


def test_fused_pass_counts_weights_and_data_once():
    gradient = counts.count("gradient", "trilinear")
    product = counts.count("Hessian product", "trilinear")
    fused = counts.count("gradient and product", "trilinear")
    assert fused.sample_bytes == gradient.sample_bytes
    # The product's sum of squares is what the fused pass does without.
    shared = counts.WEIGHTS["trilinear"] + counts.SQUARE
    assert fused.flops == gradient.flops + product.flops - shared


def test_sectors_of_atomic_sums_are_those_of_lanes_side_by_side():
    # Two instructions: 4 lanes within one sector of 8 numbers, one beyond it; lanes far apart.
    numbers = np.array([[0, 1, 6, 7, 8, -1], [0, 100, 0, 200, 300, 400]])
    assert sectors.sectors_touched(numbers) == 2 + 5
    grid = fc.FourierGrid(24)
    found = sectors.count_sums(fc.SliceOperator(grid, "kaiser_bessel"), views=1)
    # A row of 5 voxels is 40 bytes, of which a sector holds 32.
    assert 25 * 40 / 32 < found["sectors_lane_per_number"] < 25 * 3
    assert found["sectors_thread_per_sample"] > 2 * found["sectors_lane_per_number"]
    assert found["distinct_voxels_of_a_tile"] < found["voxels"]


def test_bytes_per_sample_share_the_volumes_among_the_batch():
    count = counts.count("gradient", "trilinear")
    assert count.bytes_per_sample(coefficients=1000, samples=4000) == 12 + 16 / 4


def test_resident_case_repeats_few_images_and_does_the_same_work():
    case = cases.make_case(24, 10)
    again = cases.resident(case)
    assert len(np.unique(again.batch)) == cases.RESIDENT_IMAGES
    assert (np.diff(again.batch) >= 0).all()
    assert again.total_samples == case.total_samples
    np.testing.assert_array_equal(again.rotations, case.rotations[again.batch])
    loss = cases.operations(again)["loss"]()
    assert loss == pytest.approx(case.problem.loss(case.volume, again.batch), rel=1e-12)


def test_ratio_of_rounds_forgets_a_disturbance_that_both_sides_saw():
    above, below = [2.0, 20.0, 2.0], [1.0, 10.0, 1.0]
    assert timing.median_ratio(above, below) == 2


def test_ratios_between_boxes_are_per_sample():
    boxes = {"small": 24, "medium": 28, "large": 32}
    wanted = ratios.wanted(boxes)
    assert len(wanted) == len(set(wanted))
    times = {name: [8.0 if name[2] == 32 else 1.0] * 3 for name in wanted}
    found = ratios.from_times(times, {24: 100, 28: 200, 32: 400}, boxes)
    # Eight times the time for four times the samples.
    assert found["gradient per sample, N = 256 / N = 64"] == 2
    assert found["gradient / forward"] == 1


@pytest.fixture
def saved_run(tmp_path, monkeypatch):
    """Return a function that saves a run with some ratios, and a baseline, for compare.py."""

    def save(found, baseline, quick=False):
        monkeypatch.setattr(compare, "BASELINE", tmp_path / "baseline.json")
        compare.BASELINE.write_text(json.dumps({"ratios": baseline}))
        run = tmp_path / "run.json"
        info = [{"operation": "gradient"}, {"ratios": found, "quick": quick}]
        run.write_text(json.dumps({"benchmarks": [{"extra_info": entry} for entry in info]}))
        monkeypatch.setattr(sys, "argv", ["compare.py", str(run)])

    return save


def test_compare_names_a_ratio_that_has_worsened(saved_run, capsys):
    saved_run({"a / b": 1.4, "c / d": 1.2}, {"a / b": 1.0, "c / d": 1.0})
    assert compare.main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "worsened by more than 1.3: a / b"


def test_compare_accepts_better_and_new_ratios(saved_run):
    saved_run({"a / b": 0.5, "new": 9.0}, {"a / b": 1.0, "gone": 1.0})
    assert compare.main() == 0


def test_compare_refuses_a_quick_run(saved_run):
    saved_run({"a / b": 1.0}, {"a / b": 1.0}, quick=True)
    with pytest.raises(SystemExit, match="without --quick"):
        compare.main()


def test_reference_of_accuracy_is_the_fourier_transform_of_the_projections():
    """Along z the projection is a plain sum; its FFT has the reference's values exactly."""
    shared = SharedProblem(16, 40, 1)
    _, h, k = shared.checks
    shared.__dict__["rotations"] = np.broadcast_to(np.eye(3), (40, 3, 3))
    projection = shared.volume.astype(np.float64).sum(0)
    transform = np.fft.fft2(np.fft.ifftshift(projection))
    np.testing.assert_allclose(shared.exact(), transform[k, h], rtol=0, atol=1e-10)
    assert (h**2 + k**2 <= shared.radius**2).all()
    assert shared.error(transform[k, h] * 1.5) == pytest.approx(0.5)


def test_shared_views_are_rotations():
    views = SharedProblem(16, 40, 1).rotations
    products = views @ views.transpose(0, 2, 1)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), products.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(views), 1)


def test_fastcryo_is_as_far_from_the_reference_as_the_trilinear_window_says():
    """A voxel at x is read as x + m N with weight w(x + m N) = prod sinc^2, over all shifts m.

    So the squared error is the mean of 1 - 2 w(x) + sum_m w(x + m N)^2 over the density's voxels,
    and sum_m sinc^4(u + m) = (2 + cos 2 pi u) / 3. 64 complex samples of noise give its root to
    1 / sqrt(4 * 64) = 6 %.
    """
    shared = SharedProblem(32, 8, 1)
    u = (np.arange(32) - 16) / 32
    window = np.sinc(u) ** 2
    squares = (2 + np.cos(2 * np.pi * u)) / 3
    density = shared.volume.astype(np.float64) ** 2
    first = np.einsum("zyx,z,y,x", density, window, window, window)
    second = np.einsum("zyx,z,y,x", density, squares, squares, squares)
    expected = np.sqrt(1 + (second - 2 * first) / density.sum())
    operator = fc.SliceOperator(fc.FourierGrid(32))
    image, h, k = shared.checks
    slices = operator.forward(operator.grid.from_real(shared.volume), shared.rotations)
    found = shared.error(operator.unpack(slices)[image, k, h])
    assert found == pytest.approx(expected, rel=4 * 0.06)


def test_missing_peer_is_left_out_with_reason_and_remedy():
    worker = Worker("simplecryoem", 1)
    worker.close()
    if worker.problem is None:
        pytest.skip("simplecryoem is installed")
    assert "install its checkout" in worker.problem
    assert PEERS["simplecryoem"].remedy in worker.problem


@pytest.fixture
def peers_record():
    rows = [
        ("gradient", "fastcryo", 1000.0),
        ("gradient", "slow", 50.0),
        ("gradient", "other", 60.0),
        ("gradient by autodiff", "other", 80.0),
        ("forward", "fastcryo", 500.0),
    ]
    return {
        "images": 256,
        "threads": 2,
        "rows": [
            {"operation": o, "peer": p, "box": 64, "images_per_second": r, "rounds": 7}
            for o, p, r in rows
        ],
        "peers": [
            {"name": name, "version": "1", "what": "slices"}
            for name in ("fastcryo", "slow", "other")
        ],
        "errors": [{"peer": "slow", "box": 64, "error": 0.134}],
        "peaks": [{"peer": "slow", "box": 64, "peak_mb": 123.4}],
        "skipped": {"absent": "not installed"},
    }


def test_lead_is_over_the_better_way_of_the_best_peer(peers_record):
    from measure.sections_peers import fastest_rates

    rates = fastest_rates(peers_record)
    assert lead(rates, "gradient", 64) == 1000 / 80
    assert lead(rates, "forward", 64) is None


def test_page_shows_accuracy_beside_speed_and_who_was_left_out(peers_record):
    page = "\n".join(peers_section(peers_record))
    assert "| slow | 1 | slices | 0.13 | 123 |" in page
    assert "| **fastcryo over the best peer** | **12×** |" in page
    assert "* absent: not installed" in page


def test_added_boxes_replace_their_own_rows_only(peers_record):
    other = {"box": 128, "operation": "forward", "peer": "gone", "images_per_second": 1.0}
    earlier = {
        "rows": [other, {**other, "box": 64}],
        "errors": [{"peer": "gone", "box": 128, "error": 0.1}],
        "peaks": [],
        "peers": [{"name": "gone", "version": "1", "what": "slices"}],
    }
    merged = merge(earlier, peers_record)
    assert merged["rows"] == [other, *peers_record["rows"]]
    assert merged["errors"] == earlier["errors"] + peers_record["errors"]
    assert [peer["name"] for peer in merged["peers"]] == ["fastcryo", "slow", "other", "gone"]
    assert merge({}, peers_record) == peers_record


def test_aims_say_whether_they_were_reached(peers_record):
    kernels = {"ratios": {"gradient per sample, N = 256 / N = 64": 1.9}}
    found = aims({"peers": peers_record, "kernels": kernels})
    reached = {name: yes for name, _, _, yes in found}
    assert reached == {
        "gradient against the best peer": True,
        "gradient per sample, N = 256 / N = 64": False,
    }


def test_peer_that_dies_is_left_out_and_the_others_go_on():
    worker = Worker("fastcryo", 1)
    worker._process.kill()
    worker._process.wait()
    assert worker.ask(do="prepare", box=16, images=2, threads=1) == {}
    assert worker.ask(do="error") == {}
    worker.close()
    assert worker.problem

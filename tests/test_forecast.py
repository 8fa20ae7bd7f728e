"""Plans that fit into memory, and what limits the memory."""

import json
from pathlib import Path

import numpy as np
import pytest

from fastcryo import forecast, free_memory, reconstruct
from fastcryo.cli import main, reconstruct_settings
from fastcryo.errors import InputError
from fastcryo.forecast import plan_run
from fastcryo.io.mrc import read_map
from fastcryo.options import build_parser
from fastcryo.particles import read_particles
from fastcryo.settings import Settings

GIB = 2**30


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "set"
    assert main(f"simulate {folder} --box 24 --count 400 --snr 0.3 --angpix 4".split()) == 0
    return folder / "particles.star"


def test_everything_in_memory_where_it_fits(star, tmp_path):
    plan = plan_run(read_particles(star), Settings(), None, tmp_path, free=GIB)
    assert plan.folder is None
    assert plan.operators == plan.operators_wanted > 0
    assert plan.memory == plan.images + plan.volumes + plan.operators
    assert [line.split(":")[0] for line in plan.lines()] == ["memory", "time"]


def test_time_grows_with_images_epochs_symmetry_and_without_operators(star, tmp_path):
    particles = read_particles(star)

    def seconds(settings, chosen=particles, free=GIB):
        return plan_run(chosen, settings, None, tmp_path, free=free).seconds

    base = seconds(Settings())
    assert seconds(Settings(), particles.select(np.arange(200))) < base
    assert seconds(Settings(epochs=20)) > base
    assert seconds(Settings(symmetry="D2")) > base
    assert seconds(Settings(solver="wiener")) < base
    whole = plan_run(particles, Settings(), None, tmp_path, free=GIB)
    assert seconds(Settings(), free=whole.images + whole.volumes) > base
    assert seconds(Settings(noise="residuals")) > base
    assert seconds(Settings(scale="fitted")) > base


@pytest.mark.parametrize(
    "options",
    ["", "--noise residuals --scale fitted", "--noise unit --regularization 1", "--subset 1"],
)
def test_every_stage_is_foreseen_in_its_order(star, tmp_path, options):
    command = f"reconstruct {star} --solver cg --backend cpu --out {tmp_path}/out {options}"
    assert main(command.split()) == 0
    told = [json.loads(t) for t in (tmp_path / "out" / "progress.jsonl").read_text().splitlines()]
    stages = list(dict.fromkeys(line["stage"] for line in told))
    settings = reconstruct_settings(build_parser().parse_args(command.split()))
    foreseen = plan_run(read_particles(star), settings, None, tmp_path, free=GIB).stages
    assert list(foreseen) == stages[:-1]
    assert stages[-1] == "finished"


def test_operators_are_left_out_first_then_images_go_to_disk(star, tmp_path):
    particles = read_particles(star)
    whole = plan_run(particles, Settings(), None, tmp_path, free=GIB)
    without = int((whole.images + whole.volumes + whole.operators) / forecast.USABLE)
    plan = plan_run(particles, Settings(), None, tmp_path, free=without)
    assert (plan.operators, plan.folder) == (0, None)
    assert "every product goes through the images" in plan.lines()[1]
    plan = plan_run(particles, Settings(), None, tmp_path, free=whole.images + whole.volumes)
    assert plan.automatic
    assert plan.folder == tmp_path / "prepared"
    assert plan.images == 0
    assert plan.disk == whole.images
    assert "removed at the end" in " ".join(plan.lines())


def test_a_folder_for_prepared_images_is_used_and_stays(star, tmp_path):
    named = tmp_path / "mine"
    settings = Settings(prepared_type="int16")
    plan = plan_run(read_particles(star), settings, named, tmp_path, free=GIB)
    assert (plan.folder, plan.automatic) == (named, False)
    assert "removed" not in " ".join(plan.lines())
    full = plan_run(read_particles(star), Settings(), named, tmp_path, free=GIB)
    assert plan.disk == full.disk // 2


def test_what_fits_nowhere_is_refused_with_the_remedy(star, tmp_path, monkeypatch):
    particles = read_particles(star)
    with pytest.raises(InputError, match=r"for the volumes of box 24.*--box"):
        plan_run(particles, Settings(), None, tmp_path, free=1000)
    whole = plan_run(particles, Settings(), None, tmp_path, free=GIB)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"neither into memory nor on this disk.*--prepared DIR"):
        plan_run(particles, Settings(), None, tmp_path, free=whole.images + whole.volumes)


def test_a_run_that_has_to_stream_gives_the_same_bits(star, tmp_path, monkeypatch, capsys):
    command = ["reconstruct", str(star), "--epochs", "2", "--out"]
    assert main([*command, str(tmp_path / "memory")]) == 0
    whole = plan_run(read_particles(star), Settings(), None, tmp_path, free=GIB)
    little = whole.images + whole.volumes
    # The plan's memory: operators still fit, as in the run beside it.
    for module in (free_memory, reconstruct):
        monkeypatch.setattr(module, "free_memory", lambda communicator: little)
    assert main([*command, str(tmp_path / "dry"), "--dry-run"]) == 0
    assert "read from there pass by pass" in capsys.readouterr().out
    assert not (tmp_path / "dry").exists()
    assert main([*command, str(tmp_path / "streamed")]) == 0
    maps = [read_map(tmp_path / n / "run_class001.mrc")[0] for n in ("memory", "streamed")]
    np.testing.assert_array_equal(*maps)
    assert not (tmp_path / "streamed" / "prepared").exists()


def test_the_tightest_control_group_counts(tmp_path, monkeypatch):
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    inner = groups / "outer" / "inner"
    inner.mkdir(parents=True)
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable: 9000 kB\n")
    (proc / "self" / "cgroup").write_text("1:x:/other\n0::/outer/inner\n")
    monkeypatch.setattr(free_memory, "PROC", proc)
    monkeypatch.setattr(free_memory, "CGROUPS", groups)
    assert free_memory.available_memory() == 9000 * 1024

    def limit(folder: Path, most: str, used: int, cached: int) -> None:
        (folder / "memory.max").write_text(most + "\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\nfile {cached}\n")

    limit(inner, "max", 100, 0)
    assert free_memory.available_memory() == 9000 * 1024
    limit(groups / "outer", "5000000", 4000000, 500000)
    assert free_memory.available_memory() == 1500000
    limit(inner, "3000000", 2900000, 0)
    assert free_memory.available_memory() == 100000


def test_a_limit_on_the_address_space_counts():
    resource = pytest.importorskip("resource")
    most, hard = resource.getrlimit(resource.RLIMIT_AS)
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's /proc")
    before = free_memory.available_memory()
    used = next(
        1024 * int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmSize")
    )
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20, hard))
        assert free_memory.available_memory() <= 100 * 2**20 < before
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))

"""Data sets made by others: every file has an expectation, every particle set a map."""

import re

import numpy as np
import pytest

from fastcryo.errors import InputError
from fastcryo.io.fsc_files import read_fsc_table
from fastcryo.io.mrc import open_stack, read_map
from fastcryo.particles import read_particles
from fastcryo.phantom import phantom_from_pdb

from . import validation
from .test_mrc import ZOO_MAPS, ZOO_STACKS
from .test_star_programs import ZOO, ZOO_REFUSED

PROJECTIONS, MAPS, T20S = "relion-projections/", "maps-atoms/", "t20s-cryosparc/"
NOT_FOUND = r"stacks .* not found, .*--image-root"
ONE_MAP = "lacks alignments3D/pose, alignments3D/shift"
# Particles: how many, and what images say where they are asked for; maps: shape; stacks: images
# and side; atoms; FSC tables: curves. A text is what a refusal says.
EXPECTED = {
    "betagal/particles.star": ("particles", 506, None),
    "betagal/refine3d/run_it016_data.star": ("particles", 4748, NOT_FOUND),
    "betagal/refine3d/run_it016_half1_model.star": ("refused", "no particles table"),
    "betagal10017-meta/images.star": ("particles", 6496, NOT_FOUND),
    "betagal10017-meta/model.star": ("refused", "no particles table"),
    "empiar10076/poses_ctf.npz": ("arrays", 131899),
    "fsc-tables/nysbc_PlotsT40-3DFSC.csv": ("no FSC", "three numbers a line are needed"),
    "fsc-tables/nysbc_ResEMT40-3DFSCOutglobalFSC.csv": ("FSC", 1),
    "fsc-tables/relion_external_reconstruct.star": ("FSC", 1),
    "fsc-tables/relion_postprocess.star": ("FSC", 4),
    MAPS + "1MNF_groel.pdb.gz": ("atoms", 50000),
    MAPS + "1aon_groel_groes.pdb.gz": ("atoms", 50000),
    MAPS + "3j9g_potential_ps4_4.mrc": ("map", (64, 64, 64)),
    MAPS + "apoferritin_ca_apo_sym.pdb": ("atoms", 4080),
    MAPS + "emd_1832.map": ("map", (64, 64, 64)),
    MAPS + "emd_5625.map": ("map", (56, 56, 56)),
    MAPS + "powerfit_ribosome.pdb": ("atoms", 48000),
    MAPS + "waving_spike_state22_91p.mrc": ("map", (91, 91, 91)),
    PROJECTIONS + "ctf-extras/particles.star": ("particles", 20, NOT_FOUND),
    PROJECTIONS + "ctf-extras/proj_ctf_pad2.mrcs": ("stack", 20, 64),
    PROJECTIONS + "gaussians/blobs.txt": ("numbers", 5),
    PROJECTIONS + "gaussians/particles.star": ("particles", 100, NOT_FOUND),
    PROJECTIONS + "gaussians/proj_noctf_pad2.mrcs": ("stack", 100, 64),
    PROJECTIONS + "gaussians/vol.mrc": ("map", (64, 64, 64)),
    PROJECTIONS + "rln_proj_64.mrcs": ("stack", 5, 64),
    PROJECTIONS + "rln_proj_64.star": ("refused", "give it by --angpix"),
    PROJECTIONS + "rln_proj_64_centered.mrcs": ("stack", 4, 64),
    PROJECTIONS + "rln_proj_64_centered.star": ("particles", 4, None),
    PROJECTIONS + "rln_proj_64_shifted.mrcs": ("stack", 4, 64),
    PROJECTIONS + "rln_proj_64_shifted.star": ("particles", 4, None),
    PROJECTIONS + "simplecryoem_pointmass.mrc": ("map", (64, 64, 64)),
    PROJECTIONS + "simplecryoem_pyem.star": ("particles", 24, NOT_FOUND),
    PROJECTIONS + "simplecryoem_pyem_onerow.star": ("particles", 1, NOT_FOUND),
    PROJECTIONS + "simplecryoem_relion_proj_batch.mrcs": ("stack", 24, 64),
    PROJECTIONS + "simplecryoem_relion_proj_batch.star": ("particles", 24, NOT_FOUND),
    PROJECTIONS + "simplecryoem_relion_proj_batch_pfac2.mrcs": ("stack", 24, 64),
    PROJECTIONS + "simplecryoem_relion_proj_batch_pfac2.star": ("particles", 24, NOT_FOUND),
    PROJECTIONS + "simplecryoem_relion_proj_batch_pfac3.mrcs": ("stack", 24, 64),
    PROJECTIONS + "simplecryoem_relion_proj_batch_pfac3.star": ("particles", 24, NOT_FOUND),
    PROJECTIONS + "simplecryoem_relion_proj_star.mrcs": ("stack", 1, 64),
    PROJECTIONS + "simplecryoem_relion_proj_star_pfac2.mrcs": ("stack", 1, 64),
    PROJECTIONS + "simplecryoem_relion_proj_star_pfac3.mrcs": ("stack", 1, 64),
    T20S + "P9_J209_mask.csg": ("refused", "a list of results, give the .cs files"),
    T20S + "P9_J209_particles.csg": ("refused", "a list of results, give the .cs files"),
    T20S + "P9_J209_volume.csg": ("refused", "a list of results, give the .cs files"),
    T20S + "cryosparc_P9_J209_000_particles.cs": ("particles", 11764, NOT_FOUND),
    T20S + "cryosparc_P9_J209_005_volume_map.cs": ("refused", ONE_MAP),
    T20S + "cryosparc_P9_J209_005_volume_map_half_A.cs": ("refused", ONE_MAP),
    T20S + "cryosparc_P9_J209_005_volume_mask_fsc.cs": ("refused", ONE_MAP),
    T20S + "cryosparc_P9_J209_005_volume_precision.cs": ("refused", ONE_MAP),
}
# Those with tests of their own, file by file.
ELSEWHERE = {
    *(f"reader-zoo/star/{name}" for name in (*ZOO, *ZOO_REFUSED)),
    *(f"reader-zoo/mrc/{name}" for name in (*ZOO_MAPS, *ZOO_STACKS)),
    "reader-zoo/cs/cryosparc-tools_4k_dataset.cs",
    "reader-zoo/cs/cryosparc_J2_particles_exported.cs",
    "reader-zoo/cs/cryosparc_P12_J24_001_particles.cs",
}


def test_every_file_has_an_expectation(shared_data):
    root = shared_data("README.md").parent
    found = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    found = {f for f in found if f.rpartition("/")[2] not in ("README.md", "SOURCE.md")}
    stacks = {f for f in found if f.startswith("betagal/stacks/")}
    assert len(stacks) == 4
    assert found - stacks == set(EXPECTED) | ELSEWHERE


@pytest.mark.parametrize("name", EXPECTED)
def test_every_file_is_read_or_refused_in_one_sentence(shared_data, name):
    path, (kind, *expected) = shared_data(*name.split("/")), EXPECTED[name]
    if kind in ("refused", "no FSC"):
        read = read_fsc_table if kind == "no FSC" else read_particles
        with pytest.raises(InputError, match=re.escape(expected[0])) as caught:
            read(path)
        assert "\n" not in str(caught.value)
    elif kind == "particles":
        count, refusal = expected
        found = read_particles(path, need_images=False)
        assert len(found) == count
        if refusal is None:
            assert np.isfinite(found.images([0, count - 1])).all()
        else:
            with pytest.raises(InputError, match=refusal):
                read_particles(path)
    elif kind == "stack":
        stack = open_stack(path)
        assert [stack.count, stack.box] == expected
    elif kind == "map":
        assert read_map(path)[0].shape == expected[0]
    elif kind == "atoms":
        assert len(phantom_from_pdb(path).positions) >= expected[0]
    elif kind == "FSC":
        assert len(read_fsc_table(path).curves) >= expected[0]
    elif kind == "arrays":
        with np.load(path, allow_pickle=False) as arrays:
            assert max(len(arrays[n]) for n in arrays if arrays[n].ndim) == expected[0]
    else:
        assert np.loadtxt(path).shape[1] == expected[0]


def test_real_particles_with_symmetry_reach_10_angstrom(shared_data, tmp_path):
    data = shared_data("betagal", "particles.star").parents[1]
    curves = {
        options: validation.betagal(data, tmp_path / str(number), *options.split())
        for number, options in enumerate(("", "--noise residuals --scale fitted"))
    }
    for curve in curves.values():
        assert curve[2] > 0.6  # 10 angstrom
        assert curve[1] > 0.7  # 14 angstrom
    np.testing.assert_allclose(*curves.values(), atol=0.02)


def test_relions_projections_without_noise_give_their_volume(shared_data, tmp_path):
    data = shared_data("relion-projections", "gaussians", "vol.mrc").parents[2]
    curve = validation.gaussians(data, tmp_path)
    assert curve[1:17].min() > 0.99
    assert curve[24] > 0.95


@pytest.mark.parametrize("padding", [1, 2])
def test_relions_projections_of_a_voxel_give_it_where_it_was(shared_data, tmp_path, padding):
    data = shared_data("relion-projections", "simplecryoem_pointmass.mrc").parents[1]
    place, curve = validation.point_mass(data, padding, tmp_path)
    assert place == (32, 32, 49)
    assert curve[1:5].min() > 0.93
    assert curve[1:13].min() > 0.7  # 24 views meet less than half of the voxels beyond


def test_origin_offsets_of_relion_leave_the_map_as_it_is(shared_data, tmp_path):
    data = shared_data("relion-projections", "rln_proj_64_shifted.star").parents[1]
    curve = validation.shifted_and_centred(data, tmp_path)
    assert curve[1:29].min() > 0.99

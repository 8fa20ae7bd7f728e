"""What a reconstruction will take: memory and disk."""

from __future__ import annotations

import numpy as np

from fastcryo.assembled import operator_memory
from fastcryo.grid import FourierGrid
from fastcryo.operators import SliceOperator
from fastcryo.particles import Particles
from fastcryo.preparation import ImageSet, packed_bytes, radius_of
from fastcryo.rows import BLOCK_BYTES
from fastcryo.settings import Settings


def memory_needed(particles: Particles, settings: Settings, prepared: bool = False) -> int:
    """Return the bytes that the prepared data, the volumes and the assembled H will take.

    Parameters
    ----------
    particles : Particles
    settings : Settings
    prepared : bool
        The prepared data are on disk; only codes of two bytes are decoded, block by block.
    """
    operator = operator_for(particles, settings)
    data = len(particles) * packed_bytes(operator, particles.ctf is not None)
    if prepared:
        data = min(data, 0 if settings.prepared_type == "float32" else BLOCK_BYTES)
    assembled = operator_memory(operator) if settings.assembles else 0
    return data + 12 * int(np.prod(operator.grid.shape)) * 8 + assembled


def disk_needed(particles: Particles, settings: Settings) -> int:
    """Return the bytes that prepared data take on disk."""
    data = len(particles) * packed_bytes(
        operator_for(particles, settings), particles.ctf is not None
    )
    return data if settings.prepared_type == "float32" else data // 2


def operator_for(particles: Particles, settings: Settings) -> SliceOperator:
    """Return the operator that the settings ask for."""
    setup = ImageSet(particles.box, particles.pixel_size, None, None, particles.rotations)
    box = settings.box or particles.box
    radius = radius_of(setup, settings.box, None, settings.maxres)
    return SliceOperator(FourierGrid(box, radius), settings.interpolation)

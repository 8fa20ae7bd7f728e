"""Preparation of images on a graphics card: transforms, shifts, CTFs and packing.

The pixels go to the card, and rows of weights and data come back to where the processor's would
be. Without FFTs on the card (`fastcryo.card_fft`) the images are transformed before they are sent.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastcryo.backends import on_card
from fastcryo.card_fft import card_fft
from fastcryo.kernels.cpu.aberrations import AS_THEY_ARE
from fastcryo.kernels.cuda import prepare

if TYPE_CHECKING:
    from fastcryo.packing import Packer

# Rows of weights that are made and fetched at a time.
ROWS_BYTES = 128 * 2**20


class CardPacker:
    """The tables of a `Packer` on the card of its operator."""

    def __init__(self, packer: Packer):
        self.packer, self.card = packer, packer.operator.card

    @cached_property
    def optics(self) -> tuple[NDArray[np.int64], tuple[Any, ...]]:
        """Optics group of every image; on the card warps, even phase, odd phase, limits, kinds."""
        tables, samples = self.packer.tables, self.packer.operator.samples
        place = self.card.place
        if tables is None:
            groups = np.zeros(len(self.packer.shifts), np.int64)
            zeros, ones = np.zeros((1, samples)), np.ones((1, samples))
            # Not eye[None], whose first stride is 0: kernels would be compiled anew for it.
            found = np.eye(2).reshape(1, 2, 2), zeros, ones, zeros, np.full(1, np.inf)
            return groups, tuple(map(place, (*found, np.full(1, AS_THEY_ARE, np.int64))))
        imaging = tables.imaging
        found = imaging.warps, tables.even, tables.cosines, tables.sines, imaging.limits
        return imaging.group, tuple(map(place, (*found, imaging.corrections)))

    @cached_property
    def inverse_variance(self) -> Any:
        """1 / sigma^2 by group, on the card."""
        return self.card.place(self.packer.inverse_variance)

    def pack(
        self,
        images: NDArray,
        members: NDArray[np.int64],
        places: NDArray[np.int64],
        weights: NDArray,
        data: NDArray,
    ) -> NDArray[np.float64]:
        """Do as `Packer.pack` does, without its scale."""
        packer, card = self.packer, self.card
        with on_card(packer.operator.grid.box):
            groups, (warps, even, cosines, sines, limits, corrections) = self.optics
            shape = len(images), packer.operator.samples
            with_ctf = len(packer.ctf) > 0
            ctf = packer.ctf[members] if with_ctf else packer.ctf
            rows = card.empty(shape if with_ctf else (1, 1), card.real)
            made = card.empty(shape, card.complex)
            energies = prepare.pack_images(
                self.transforms(images),
                card.place(groups[members]),
                card.place(packer.noise_group[members]),
                card.place(packer.shifts[members]),
                card.places,
                card.place(ctf),
                warps,
                even,
                cosines,
                sines,
                limits,
                corrections,
                packer.length,
                self.inverse_variance,
                rows,
                made,
            )
            if with_ctf:
                weights[places] = rows.copy_to_host()
            data[places] = made.copy_to_host()
        return energies

    def transforms(self, images: NDArray) -> Any:
        """Return the columns 0 to R, at least, of fft2 of images, on the card."""
        from fastcryo.packing import half_transforms

        fft = card_fft()
        if fft is None:
            return self.card.place(half_transforms(images, self.packer.operator.grid.radius))
        found = prepare.to_complex(self.card.place(images))
        for axis in (2, 1):
            fft(found, axis, False)
        return found

    def fill_weights(self, members: NDArray[np.int64], weights: NDArray) -> None:
        """Do as `Packer.fill_weights` does, without its scale."""
        packer, card = self.packer, self.card
        length = max(1, ROWS_BYTES // weights[:1].nbytes)
        with on_card(packer.operator.grid.box):
            groups, (warps, even, _, _, limits, _) = self.optics
            for start in range(0, len(members), length):
                some = members[start : start + length]
                rows = card.empty((len(some), weights.shape[1]), card.real)
                prepare.prepare_weights(
                    card.place(groups[some]),
                    card.place(packer.noise_group[some]),
                    card.places,
                    card.place(packer.ctf[some]),
                    warps,
                    even,
                    limits,
                    packer.length,
                    self.inverse_variance,
                    rows,
                )
                weights[start : start + len(some)] = rows.copy_to_host()

"""The contrast transfer function."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcryo.ctf import CTF
from fastcryo.errors import InputError

from . import naive

FY, FX = np.mgrid[-12:13, -12:13] / 60.0


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    defocus_u=st.floats(-5000, 40000),
    defocus_v=st.floats(-5000, 40000),
    defocus_angle=st.floats(-180, 180),
    voltage=st.sampled_from([80.0, 120.0, 200.0, 300.0]),
    spherical_aberration=st.floats(0, 4),
    amplitude_contrast=st.floats(0, 1),
    phase_shift=st.floats(-180, 180),
    bfactor=st.floats(-50, 300),
    scale=st.floats(0.1, 2),
)
def test_function_is_that_of_the_definition(**parameters):
    # The phase reaches 500 radians: its rounding, 1e-13, limits the sine. exp(50 * 0.08 / 4) = 2.7.
    ours = CTF(**parameters).evaluate(FX, FY)[0]
    np.testing.assert_allclose(ours, naive.ctf(FX, FY, **parameters), rtol=0, atol=2e-12)


def test_value_at_the_origin_is_the_amplitude_contrast():
    ctf = CTF(15000, 14000, amplitude_contrast=[0.0, 0.07, 1.0])
    np.testing.assert_allclose(ctf.evaluate(0.0, 0.0), [0, 0.07, 1], rtol=0, atol=1e-15)


def test_weak_underfocus_makes_the_first_ring_positive():
    assert CTF(10000, 10000).evaluate(1 / 40, 0.0)[0] > 0.3
    assert CTF(-10000, -10000).evaluate(1 / 40, 0.0)[0] < -0.1


def test_phase_shift_of_90_degrees_turns_sine_into_cosine():
    shifted = CTF(12000, 12000, phase_shift=90.0, amplitude_contrast=0.0).evaluate(FX, FY)
    amplitude = CTF(12000, 12000, amplitude_contrast=1.0).evaluate(FX, FY)
    np.testing.assert_allclose(shifted, amplitude, rtol=0, atol=1e-13)


def test_bfactor_damps_as_a_quarter_of_q_squared():
    ratio = CTF(12000, 11000, bfactor=80.0).evaluate(0.1, 0.05) / CTF(12000, 11000).evaluate(
        0.1, 0.05
    )
    assert ratio[0] == pytest.approx(np.exp(-80 * 0.0125 / 4), rel=1e-14)


@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0, 145.0])
def test_defocus_u_acts_along_its_azimuth_and_v_across(angle):
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    q = np.linspace(0, 0.3, 50)
    ctf = CTF(18000, 12000, defocus_angle=angle)
    round_u, round_v = CTF(18000, 18000), CTF(12000, 12000)
    np.testing.assert_allclose(
        ctf.evaluate(q * c, q * s), round_u.evaluate(q, 0 * q), rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(
        ctf.evaluate(-q * s, q * c), round_v.evaluate(q, 0 * q), rtol=0, atol=1e-12
    )


def test_units_are_those_of_the_files():
    # From h, m, e and c the wavelength at 300 kV is 0.01968749 angstrom; the rounded constants of
    # the formula are 7e-6 off. Without Cs and w, the first zero lies at q^2 = 1 / (wavelength U).
    wavelength = 0.01968749
    ctf = CTF(10000, 10000, voltage=300, spherical_aberration=0, amplitude_contrast=0)
    assert abs(ctf.evaluate(1 / np.sqrt(wavelength * 10000), 0.0)[0]) < 1e-4
    # Cs in mm: without defocus the phase is (pi / 2) Cs wavelength^3 q^4.
    cs = CTF(0, 0, spherical_aberration=2.0, amplitude_contrast=0)
    expected = -np.sin(np.pi / 2 * 2.0e7 * wavelength**3 * 0.2**4)
    assert cs.evaluate(0.2, 0.0)[0] == pytest.approx(expected, rel=1e-4)


def test_numbers_serve_all_images_and_select_keeps_rows():
    ctf = CTF([10000.0, 11000.0, 12000.0], 9000.0, phase_shift=[0.0, 10.0, 20.0])
    assert len(ctf) == 3
    values = ctf.evaluate(FX, FY)
    assert values.shape == (3, 25, 25)
    np.testing.assert_array_equal(ctf.select([2, 0]).evaluate(FX, FY), values[[2, 0]])
    single = CTF(11000.0, 9000.0, phase_shift=10.0)
    assert len(single) == 1
    np.testing.assert_array_equal(single.evaluate(FX, FY)[0], values[1])


def test_frequencies_broadcast_against_each_other():
    grid = CTF(10000, 9000).evaluate(FX[:1], FY[:, :1])
    np.testing.assert_array_equal(grid, CTF(10000, 9000).evaluate(FX, FY))


def test_fields_of_different_lengths_are_refused():
    with pytest.raises(InputError, match=r"^CTF: fields of different lengths, \[2, 3\]"):
        CTF([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match=r"^CTF: fields of different lengths"):
        CTF(np.ones((2, 2)), 1.0)


@pytest.mark.parametrize("field", ["defocus_u", "voltage", "bfactor", "scale"])
def test_values_that_are_not_finite_are_refused_by_name(field):
    values = {"defocus_u": 10000.0, "defocus_v": 10000.0, field: [300.0, np.nan, np.inf]}
    with pytest.raises(InputError, match=rf"^CTF: {field} of 2 images is NaN .* first image 1$"):
        CTF(**values)


def test_impossible_voltage_and_amplitude_contrast_are_refused():
    with pytest.raises(InputError, match=r"^CTF: voltage must be positive"):
        CTF(1.0, 1.0, voltage=0.0)
    for w in (-0.1, 1.1):
        with pytest.raises(InputError, match=r"^CTF: amplitude_contrast must lie between 0 and 1"):
            CTF(1.0, 1.0, amplitude_contrast=w)

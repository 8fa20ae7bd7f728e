"""The mathematics of docs/conventions.md, slow and obvious, in float64 and on full grids.

Nothing here uses fastcryo. Volumes are full complex grids (N, N, N) in numpy.fft order, images full
transforms (n, N, N), sums run over every frequency of the disc.
"""

from types import SimpleNamespace

import numpy as np


def euler_matrix(rot, tilt, psi):
    """RELION's matrix A, written out."""
    a, b, g = np.deg2rad([rot, tilt, psi])
    ca, sa, cb, sb, cg, sg = np.cos(a), np.sin(a), np.cos(b), np.sin(b), np.cos(g), np.sin(g)
    return np.array(
        [
            [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
            [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
            [sb * ca, sb * sa, cb],
        ]
    )


def random_rotations(count, rng):
    """Uniform rotations from QR factors of Gaussian matrices."""
    q, r = np.linalg.qr(rng.normal(size=(count, 3, 3)))
    q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    q[np.linalg.det(q) < 0, :, 0] *= -1
    return q


def special_rotations():
    """Turns by 90 and 45 degrees: samples on grid points and on the plane z = 0."""
    quarter = [
        euler_matrix(rot, tilt, psi)
        for rot in (0, 90, 180, 270)
        for tilt in (0, 90, 180)
        for psi in (0, 90)
    ]
    angles = (45, 0, 0), (0, 45, 0), (0, 0, 45), (45, 90, 45), (90, 45, 135), (45, 45, 45)
    eighth = [euler_matrix(*three) for three in angles]
    return np.array(quarter + eighth)


def disc(radius):
    """All (h, k) of the full disc."""
    k, h = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    inside = h**2 + k**2 <= radius**2
    return h[inside], k[inside]


def taps(box, rotation, h, k, interpolation):
    """Flat indices into the full grid and weights of every sample, both (samples, taps)."""
    position = h[:, None] * rotation[0] + k[:, None] * rotation[1]
    if interpolation == "nearest":
        corners = np.rint(position).astype(int)[:, None]
        weights = np.ones((len(h), 1))
    else:
        low = np.floor(position).astype(int)
        fraction = position - low
        corners, weights = [], []
        for corner in np.ndindex(2, 2, 2):
            corners.append(low + corner)
            weights.append(np.where(corner, fraction, 1 - fraction).prod(axis=1))
        corners, weights = np.stack(corners, axis=1), np.stack(weights, axis=1)
    x, y, z = np.moveaxis(corners % box, -1, 0)
    return (z * box + y) * box + x, weights


def clear_of_ties(box, rotations, radius):
    """Which samples (n, N, N) have one nearest voxel: half-way ones may go to either side."""
    h, k = disc(radius)
    keep = np.ones((len(rotations), box, box), bool)
    for image, rotation in zip(keep, rotations, strict=True):
        position = h[:, None] * rotation[0] + k[:, None] * rotation[1]
        image[k, h] = (np.abs(position - np.floor(position) - 0.5) > 1e-9).all(axis=1)
    return keep


def forward(full, rotations, radius, interpolation):
    """P V of every image."""
    box = len(full)
    h, k = disc(radius)
    images = np.zeros((len(rotations), box, box), complex)
    for image, rotation in zip(images, rotations, strict=True):
        index, weights = taps(box, rotation, h, k, interpolation)
        image[k, h] = (weights * full.ravel()[index]).sum(axis=1)
    return images


def adjoint(images, rotations, radius, interpolation):
    """P^H of full transforms: every sample is added where `forward` reads it."""
    box = images.shape[1]
    h, k = disc(radius)
    total = np.zeros(box**3, complex)
    for image, rotation in zip(images, rotations, strict=True):
        index, weights = taps(box, rotation, h, k, interpolation)
        np.add.at(total, index, weights * image[k, h][:, None])
    return total.reshape(box, box, box)


def hessian(box, rotations, radius, interpolation, power):
    """The N^3 x N^3 matrix 1/n sum_i P_i^T power_i P_i; power is C^2 / sigma^2, (n, N, N)."""
    h, k = disc(radius)
    matrix = np.zeros((box**3, box**3))
    for c, rotation in zip(power, rotations, strict=True):
        index, weights = taps(box, rotation, h, k, interpolation)
        outer = c[k, h][:, None, None] * weights[:, :, None] * weights[:, None, :]
        np.add.at(matrix, (index[:, :, None], index[:, None, :]), outer)
    return matrix / len(rotations)


def ctf(
    fx,
    fy,
    defocus_u,
    defocus_v,
    defocus_angle=0.0,
    voltage=300.0,
    spherical_aberration=2.7,
    amplitude_contrast=0.1,
    phase_shift=0.0,
    bfactor=0.0,
    scale=1.0,
):
    """The contrast transfer function of one image with all its angles; units of the files."""
    volts, cs = voltage * 1e3, spherical_aberration * 1e7
    wavelength = 12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts))
    q2 = fx**2 + fy**2
    theta = np.arctan2(fy, fx)
    defocus = (defocus_u + defocus_v) / 2 + (defocus_u - defocus_v) / 2 * np.cos(
        2 * (theta - np.deg2rad(defocus_angle))
    )
    chi = (
        np.pi * wavelength * defocus * q2
        - np.pi / 2 * cs * wavelength**3 * q2**2
        + np.deg2rad(phase_shift)
    )
    w = amplitude_contrast
    value = np.sqrt(1 - w**2) * np.sin(chi) + w * np.cos(chi)
    return scale * value * np.exp(-bfactor * q2 / 4)


def frequencies(box):
    """Integer frequencies (h, k) of an (N, N) transform in numpy.fft order."""
    f = np.rint(np.fft.fftfreq(box) * box).astype(int)
    return f[None, :], f[:, None]


def shift_phases(box, shifts, pixel_size):
    """exp(+2 pi i (h sx + k sy) / (N a)) of every image, (n, N, N)."""
    h, k = frequencies(box)
    length = box * pixel_size
    return np.exp(
        2j * np.pi * (h * shifts[:, 0, None, None] + k * shifts[:, 1, None, None]) / length
    )


def transform_images(images):
    """Unnormalised DFT of the centred images."""
    return np.fft.fft2(np.fft.ifftshift(images, axes=(1, 2)))


def by_shell(values, box, dimensions=3):
    """One number, or values of shells round(|k|), on the full grid; the last serves beyond."""
    f = np.fft.fftfreq(box) * box
    axes = np.meshgrid(*[f] * dimensions, indexing="ij")
    shells = np.rint(np.sqrt(sum(a**2 for a in axes))).astype(int)
    values = np.atleast_1d(np.asarray(values, float))
    return values[np.minimum(shells, len(values) - 1)]


def loss_and_gradient(
    full, transforms, rotations, radius, interpolation, ctfs, phases, noise_std, regularization
):
    """f and its gradient, image by image, straight from the definition.

    transforms, ctfs, phases : (n, N, N); noise_std, regularization : numbers or one per shell.
    """
    box = len(full)
    h, k = disc(radius)
    variance = by_shell(noise_std, box, 2) ** 2
    damping = by_shell(regularization, box)
    loss = 0.0
    gradient = np.zeros(full.shape, complex)
    for y, rotation, c, phase in zip(transforms, rotations, ctfs, phases, strict=True):
        model = c * phase * forward(full, [rotation], radius, interpolation)[0]
        residual = model - y
        loss += 0.5 * (np.abs(residual) ** 2 / variance)[k, h].sum()
        back = np.conj(phase) * c * residual / variance
        gradient += adjoint(back[None], [rotation], radius, interpolation)
    n = len(transforms)
    loss = loss / n + 0.5 * (damping * np.abs(full) ** 2).sum()
    return loss, gradient / n + damping * full


def gaussians(positions, amplitudes, sigmas, qx, qy, qz):
    """Fourier transform of a sum of Gaussians of given integrals at frequencies in 1/angstrom."""
    total = np.zeros(np.broadcast(qx, qy, qz).shape, complex)
    for (x, y, z), a, s in zip(positions, amplitudes, sigmas, strict=True):
        envelope = np.exp(-2 * np.pi**2 * s**2 * (qx**2 + qy**2 + qz**2))
        total += a * envelope * np.exp(-2j * np.pi * (qx * x + qy * y + qz * z))
    return total


def data_set(box, views="random", count=8, seed=0, pixel_size=3.0):
    """Random images with poses, shifts and CTFs.

    views : "random", "ties" (45-degree turns among them) or "quarter" (90-degree turns among them).
    Attributes: images, rotations, shifts, ctf (the parameters of `ctf`, one value per image),
    pixel_size; transforms, ctfs, phases as `loss_and_gradient` takes them.
    """
    rng = np.random.default_rng(seed)
    rotations = random_rotations(count, rng)
    special = special_rotations()
    chosen = {"random": special[:0], "quarter": special[:24:3], "ties": special[::3]}[views]
    rotations = np.concatenate([rotations, chosen])
    n = len(rotations)
    images = rng.normal(size=(n, box, box))
    shifts = rng.normal(scale=4.0, size=(n, 2))
    parameters = {
        "defocus_u": rng.uniform(9000, 22000, n),
        "defocus_v": rng.uniform(9000, 22000, n),
        "defocus_angle": rng.uniform(-90, 90, n),
        "phase_shift": rng.uniform(0, 60, n),
        "bfactor": rng.uniform(0, 50, n),
        "scale": rng.uniform(0.8, 1.2, n),
    }
    h, k = frequencies(box)
    length = box * pixel_size
    ctfs = [
        ctf(h / length, k / length, **{name: v[i] for name, v in parameters.items()})
        for i in range(n)
    ]
    return SimpleNamespace(
        images=images,
        rotations=rotations,
        shifts=shifts,
        ctf=parameters,
        pixel_size=pixel_size,
        transforms=transform_images(images),
        ctfs=np.array(ctfs),
        phases=shift_phases(box, shifts, pixel_size),
    )

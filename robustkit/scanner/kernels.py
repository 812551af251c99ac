"""The inner loops of the virtual scanner: line integrals, counting noise, back-projection.

Parallel beam: the ray of view angle a at detector position t (mm) is the line x cos a + y sin a = t, with x along
columns and y along rows, both from the centre of the image. All kernels let go of Python's lock and run on the
thread that calls them; callers hand out views or image rows to plain threads.

Holds numba code: import it inside functions only.
"""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np

from robustkit.philox import fill_row
from robustkit.scanner.lanes import LANES, add_lerp, add_scaled, load, store

TILE = 16
"""Pixels of a tile: its 16 x 16 vectors and the stretch of sinogram it needs stay in the cache."""
VIEWS_AT_ONCE = 8
"""Views added to a pixel between its load and its store; the number of views is a multiple of it."""
LINES_AT_ONCE = 8
"""Image lines of sixteen slices that stay in the cache while several views cross them."""
EXACT_BELOW = 60.0
"""Expected counts below which a ray's photons are Poisson to the digit; above, to the fourth cumulant."""
MAX_SPREAD = 0.14
"""Standard deviation over mean of a ray above which it goes the exact way too (much electronic noise)."""
_SECOND_FIELD = 1 << 24
"""Row of a realization's white field where the electronic noise of the exact rays begins."""


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _reach(ends: Any, m: Any, count: Any, line_mm: Any, scale: Any, b: Any, det: Any, rays: Any, origin: Any) -> Any:
    """Which rays (low, high) meet line m where it is not zero, and the sample position of ray `low`."""
    y = (m - 0.5 * (count - 1)) * line_mm
    first = (-0.5 * (rays - 1) * det - y * b) * scale + origin
    step = det * scale
    near, far = (ends[m, 0] - first) / step, (ends[m, 1] - first) / step
    low = max(0, math.ceil(min(near, far)))
    high = min(rays, math.ceil(max(near, far)))
    return low, high, np.float32(first + step * low)


@nb.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
def _add_lines(image: Any, ends: Any, line_mm: Any, sample_mm: Any, a: Any, b: Any, det: Any, row: Any) -> None:
    """Add to `row` the integrals of `image` along rays that step from line to line (Joseph 1982)."""
    count, origin = image.shape[0], 0.5 * (image.shape[1] - 4) + 1.0
    scale = 1.0 / (a * sample_mm)
    step = np.float32(det * scale)
    weight = np.float32(line_mm / abs(a))
    for m in range(count):
        if ends[m, 1] <= ends[m, 0]:
            continue
        low, high, first = _reach(ends, m, count, line_mm, scale, b, det, row.size, origin)
        line = image[m]
        rays = row[low:high]
        for d in range(rays.size):
            s = first + step * np.float32(np.int32(d))
            i = np.int32(s)
            right = weight * (s - np.float32(i))
            total = rays[d] + (weight - right) * line[np.uint32(i)]
            rays[d] = total + right * line[np.uint32(i) + np.uint32(1)]


@nb.njit(nogil=True, cache=True)
def nonzero_ends(image: Any) -> Any:
    """For each line of image (lines, samples), the open interval of positions between which it is not zero."""
    ends = np.zeros((image.shape[0], 2))
    for m in range(image.shape[0]):
        filled = np.nonzero(image[m])[0]
        if filled.size:
            ends[m, 0] = filled[0] - 1.0
            ends[m, 1] = filled[-1] + 1.0
    return ends


@nb.njit(nogil=True, cache=True)
def project(image: Any, turned: Any, pixel_mm: Any, cosine: Any, sine: Any, det: Any, out: Any) -> None:
    """Line integrals of `image` (H, W + 3; one column of zeros before, two behind) into `out` (views, detectors).

    `turned` is the image's transpose with its own three columns of zeros; each view steps along the axis that its
    rays cross more steeply.
    """
    dy, dx = pixel_mm
    ends, turned_ends = nonzero_ends(image), nonzero_ends(turned)
    for v in range(out.shape[0]):
        out[v] = 0.0
        if abs(sine[v]) * dy <= abs(cosine[v]) * dx:
            _add_lines(image, ends, dy, dx, cosine[v], sine[v], det, out[v])
        else:
            _add_lines(turned, turned_ends, dx, dy, sine[v], cosine[v], det, out[v])


@nb.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
def _add_lines_of_many(
    image: Any, ends: Any, lines: Any, line_mm: Any, sample_mm: Any, a: Any, b: Any, det: Any, out: Any, view: Any
) -> None:
    """`_add_lines` for LANES images at once, lines `lines[0]` to `lines[1]` - 1 alone, into view `view` of `out`."""
    count, wide, rays = image.shape[0], np.uint32(image.shape[1]), out.shape[1]
    origin = 0.5 * (image.shape[1] - 4) + 1.0
    scale = 1.0 / (a * sample_mm)
    step = np.float32(det * scale)
    weight = np.float32(line_mm / abs(a))
    for m in range(lines[0], lines[1]):
        if ends[m, 1] <= ends[m, 0]:
            continue
        low, high, first = _reach(ends, m, count, line_mm, scale, b, det, rays, origin)
        for d in range(high - low):
            s = first + step * np.float32(np.int32(d))
            i = np.int32(s)
            j = np.uint32(m) * wide + np.uint32(i)
            k = np.uint32(view * rays + low + d)
            right = weight * (s - np.float32(i))
            total = add_scaled(load(out, k), load(image, j), weight - right)
            store(out, k, add_scaled(total, load(image, j + np.uint32(1)), right))


@nb.njit(nogil=True, cache=True)
def project_many(
    image: Any, turned: Any, ends: Any, turned_ends: Any, pixel_mm: Any, cosine: Any, sine: Any, det: Any, out: Any
) -> None:
    """`project`, to the bit, for LANES images: image (H, W + 3, LANES), `out` (views, detectors, LANES), zeros before.

    `ends` hold for all of them together. Views of one call share each group of lines while the cache holds it.
    """
    dy, dx = pixel_mm
    for start in range(0, max(image.shape[0], turned.shape[0]), LINES_AT_ONCE):
        lines = (start, min(start + LINES_AT_ONCE, image.shape[0]))
        turned_lines = (start, min(start + LINES_AT_ONCE, turned.shape[0]))
        for v in range(out.shape[0]):
            if abs(sine[v]) * dy <= abs(cosine[v]) * dx:
                _add_lines_of_many(image, ends, lines, dy, dx, cosine[v], sine[v], det, out, v)
            else:
                _add_lines_of_many(turned, turned_ends, turned_lines, dx, dy, sine[v], cosine[v], det, out, v)


@nb.njit(nogil=True, cache=True)
def poisson_quantile(mean: Any, z: Any) -> Any:
    """Poisson(mean) counts at the quantile Phi(z): exact below 200, Cornish-Fisher above."""
    if mean > 200.0:
        root = math.sqrt(mean)
        return mean + root * z + (z * z - 1.0) / 6.0 + (z - z**3) / (72.0 * root)
    u = 0.5 * math.erfc(-z / math.sqrt(2.0))
    k = 0
    term = math.exp(-mean)
    total = term
    while total < u and k < 1000:
        k += 1
        term *= mean / k
        total += term
    return float(k)


@nb.njit(nogil=True, cache=True)
def goes_exact(mean: Any, electronic: Any) -> Any:
    """Say whether a ray of `mean` counts is drawn the exact way."""
    return mean < EXACT_BELOW or mean + electronic * electronic > (MAX_SPREAD * mean) ** 2


@nb.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
def log_noise(z: Any, mean: Any, electronic: Any, out: Any) -> None:
    """-ln(c / mean) of counts c ~ Poisson(mean) + N(0, electronic^2) at the normal quantiles z, for many counts.

    Counts by the Cornish-Fisher expansion with the cumulants of the sum, mean + electronic^2, mean, mean; the
    logarithm by 2 atanh(e / (2 + e)) with e = c / mean - 1: no difference of large numbers.
    """
    one = np.float32(1.0)
    square = np.float32(electronic * electronic)
    for d in range(z.size):
        variance = mean[d] + square
        sd = np.sqrt(variance)
        x = z[d]
        xx = x * x
        e = x * sd / mean[d] + (xx - one) / (np.float32(6.0) * variance)
        third = (xx - np.float32(3.0)) / np.float32(24.0)
        fourth = (np.float32(2.0) * xx - np.float32(5.0)) / np.float32(36.0) * (mean[d] / variance)
        e += x * (third - fourth) / (variance * sd)
        s = e / (np.float32(2.0) + e)
        ss = s * s
        p = np.float32(1.0 / 13.0)
        p = p * ss + np.float32(1.0 / 11.0)
        p = p * ss + np.float32(1.0 / 9.0)
        p = p * ss + np.float32(1.0 / 7.0)
        p = p * ss + np.float32(1.0 / 5.0)
        p = p * ss + np.float32(1.0 / 3.0)
        p = p * ss + one
        out[d] = np.float32(-2.0) * s * p


@nb.njit(nogil=True, cache=True)
def _exact_rays(z: Any, mean: Any, electronic: Any, row: int, words: Any, out: Any) -> None:
    """Redo, the exact way, the rays of one view that few photons reach."""
    second = np.empty(0, np.float32)
    for d in range(mean.size):
        if goes_exact(mean[d], electronic):
            if second.size == 0:
                second = np.empty(mean.size, np.float32)
                fill_row(second, np.uint32(row + _SECOND_FIELD), words[0], words[1], words[2], words[3])
            counts = poisson_quantile(mean[d], z[d]) + electronic * second[d]
            out[d] = -math.log(max(counts, 1.0) / mean[d])


@nb.njit(nogil=True, cache=True)
def sinogram_noise(
    transmission: Any, photons: Any, electronic: Any, words: Any, view: int, start: int, out: Any
) -> None:
    """Noise of the log data of one scan, q - p with q = -ln(max(c, 1) / c0), for a block of views.

    transmission : (V, D) float32, exp(-p) times the bow-tie, of views `view` .. `view` + V - 1; D is a multiple of 64.
    photons : float32, photons that leave the tube per ray. words : (4,) uint32, `Draw.words`.
    out : (V, n) float32; the D rays are written from column `start` on, the rest is set to zero.
    """
    detectors = transmission.shape[1]
    z = np.empty(detectors, np.float32)
    mean = np.empty(detectors, np.float32)
    for v in range(transmission.shape[0]):
        line = out[v]
        line[:start] = 0.0
        line[start + detectors :] = 0.0
        least = np.float32(np.inf)
        for d in range(detectors):
            mean[d] = photons * transmission[v, d]
            least = min(least, mean[d])
        fill_row(z, np.uint32(view + v), words[0], words[1], words[2], words[3])
        rays = line[start : start + detectors]
        log_noise(z, mean, electronic, rays)
        if goes_exact(least, electronic):
            _exact_rays(z, mean, electronic, view + v, words, rays)


@nb.njit(nogil=True, cache=True)
def interleave(rows: Any, out: Any) -> None:
    """Copy rows (B <= LANES, V, >= n) into out (V, n, LANES); lanes without a row keep what they hold."""
    for v in range(out.shape[0]):
        for d in range(out.shape[1]):
            for b in range(rows.shape[0]):
                out[v, d, b] = rows[b, v, d]


@nb.njit(nogil=True, cache=True)
def backproject(sinogram: Any, cosine: Any, sine: Any, xs: Any, ys: Any, centre: Any, out: Any) -> None:
    """Add to `out` (H, W, LANES) the views of `sinogram` (V, n, LANES), linearly interpolated at each pixel.

    xs (W,), ys (H,) : pixel positions in detector widths, float32; centre : detector index of the axis. Every pixel
    must fall between detector 0 and n - 2.
    """
    wide = np.uint32(sinogram.shape[1])
    height, width = ys.size, xs.size
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            for v0 in range(0, cosine.size, VIEWS_AT_ONCE):
                for y in range(top, min(top + TILE, height)):
                    for x in range(left, min(left + TILE, width)):
                        k = np.uint32(y * width + x)
                        total = load(out, k)
                        for v in range(v0, v0 + VIEWS_AT_ONCE):
                            t = (ys[y] * sine[v] + centre) + xs[x] * cosine[v]
                            i = np.int32(t)
                            j = np.uint32(v) * wide + np.uint32(i)
                            near, far = load(sinogram, j), load(sinogram, j + np.uint32(1))
                            total = add_lerp(total, near, far, t - np.float32(i))
                        store(out, k, total)


@nb.njit(nogil=True, cache=True)
def backproject_variance(
    variance: Any, dip: Any, cosine: Any, sine: Any, xs: Any, ys: Any, centre: Any, out: Any
) -> None:
    """Add to `out` (H, W, LANES) the variance of what `backproject` makes of independent views.

    Between detectors i and i + 1 at weight w, with variances A_i, A_{i+1} and covariance C_i of the filtered data:
    (1-w)^2 A_i + w^2 A_{i+1} + 2 w (1-w) C_i = lerp(A)(w) - w (1-w) dip_i, dip_i = A_i + A_{i+1} - 2 C_i.
    """
    wide = np.uint32(variance.shape[1])
    height, width = ys.size, xs.size
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            for v in range(cosine.size):
                for y in range(top, min(top + TILE, height)):
                    for x in range(left, min(left + TILE, width)):
                        k = np.uint32(y * width + x)
                        t = (ys[y] * sine[v] + centre) + xs[x] * cosine[v]
                        i = np.int32(t)
                        w = t - np.float32(i)
                        j = np.uint32(v) * wide + np.uint32(i)
                        total = add_lerp(load(out, k), load(variance, j), load(variance, j + np.uint32(1)), w)
                        store(out, k, add_scaled(total, load(dip, j), w * (w - np.float32(1.0))))


@nb.njit(nogil=True, cache=True)
def separate(image: Any, scale: Any, out: Any) -> None:
    """Copy image (H, W, LANES) times `scale` into out (B <= LANES, H, W)."""
    for y in range(image.shape[0]):
        for b in range(out.shape[0]):
            for x in range(image.shape[1]):
                out[b, y, x] = scale * image[y, x, b]


__all__ = [
    "LANES",
    "backproject",
    "backproject_variance",
    "goes_exact",
    "interleave",
    "log_noise",
    "nonzero_ends",
    "poisson_quantile",
    "project",
    "project_many",
    "separate",
    "sinogram_noise",
]

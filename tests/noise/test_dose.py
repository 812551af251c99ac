from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit.errors import DataError
from robustkit.noise import DoseLaw, check_dose, fit_dose, fit_nps


def _sets(make_repeats, levels, ratio=0.0, count=20, exponent=1.0):
    """Repeats whose variance follows k (1 + r k)/(1 + r) with reference 25 mAs, or (25/m)**exponent."""
    out = []
    for i, mas in enumerate(levels):
        k = 25 / mas
        variance = k**exponent * (1 + ratio * k) / (1 + ratio)
        out.append(make_repeats(count, (96, 96), sigma=10 * np.sqrt(variance), seed=100 + i, mas=mas))
    return out


@pytest.mark.parametrize(
    ("ratio", "k", "error"),
    [(0.01, 2, -0.005), (0.05, 4, -0.065), (0.10, 8, -0.218), (0.30, 1 / 8, 0.119), (0.30, 1 / 20, 0.132)],
)
def test_square_root_law_error_by_electronic_noise(ratio, k, error) -> None:
    true = DoseLaw(25.0, ratio).factors([25 / k])[0]
    assert DoseLaw(25.0).factors([25 / k])[0] / true - 1 == pytest.approx(error, abs=6e-4)


@given(st.floats(0.1, 1e4), st.floats(0, 3), st.floats(0.1, 1e4))
def test_missing_noise_adds_up_in_quadrature(reference, ratio, source) -> None:
    level = source / 3
    law = DoseLaw(reference, ratio)
    added = DoseLaw(reference, ratio, source_mas=source).factors([level])[0]
    assert np.hypot(added, law.factors([source])[0]) == pytest.approx(law.factors([level])[0], rel=1e-9)


def test_electronic_share_is_recovered(make_repeats) -> None:
    law = fit_dose(_sets(make_repeats, [6.25, 25, 100], ratio=0.2), reference_mas=25)
    assert law.electronic_ratio == pytest.approx(0.2, abs=0.06)
    assert law.measured == (6.25, 25, 100)


def test_pure_quantum_noise_fits_no_electronic_share(make_repeats) -> None:
    assert fit_dose(_sets(make_repeats, [12.5, 25, 50]), reference_mas=25).electronic_ratio < 0.03


def test_noise_without_a_quantum_part_goes_with_the_inverse_of_mas(make_repeats) -> None:
    # variance 1/m^2 and steeper: the fit has nothing left for A/m, and alpha is reference/m
    law = fit_nps(_sets(make_repeats, [50, 12.5], exponent=2.3)).law
    assert law.factors([25.0, 10.0]) == pytest.approx([2.0, 5.0], rel=1e-5)


def test_models_take_several_sets(make_repeats) -> None:
    model = fit_nps(_sets(make_repeats, [25, 6.25], ratio=0.2))
    assert model.reference_mas == 25
    assert model.law.factors([6.25])[0] == pytest.approx(np.sqrt(4 * 1.8 / 1.2), rel=0.05)


@pytest.mark.parametrize("levels", [[25, 100], [12.5, 25, 100]])
def test_law_holds_for_linear_reconstruction(make_repeats, levels) -> None:
    check = check_dose(_sets(make_repeats, levels))
    assert check.verdict == "holds"
    assert check.law == ("square-root" if len(levels) == 2 else "A/mAs + B/mAs^2")


@pytest.mark.parametrize("levels", [[25, 100], [12.5, 25, 100]])
def test_law_fails_for_noise_that_falls_too_slowly(make_repeats, levels) -> None:
    """An iterative reconstruction: variance as mAs^-0.6."""
    check = check_dose(_sets(make_repeats, levels, exponent=0.6))
    assert check.verdict == "fails"
    assert "fails" in check.reason


def test_electronic_noise_fails_two_levels_but_not_three(make_repeats) -> None:
    assert check_dose(_sets(make_repeats, [6.25, 100], ratio=0.3)).verdict == "fails"
    assert check_dose(_sets(make_repeats, [6.25, 25, 100], ratio=0.3)).verdict == "holds"


def test_too_few_scans_are_inconclusive(make_repeats) -> None:
    sets = [
        replace(s, pixels=np.ascontiguousarray(s.pixels[:2, :24, :24]))
        for s in _sets(make_repeats, [25, 100], exponent=0.9)
    ]
    assert check_dose(sets).verdict == "inconclusive"


def test_dose_laws_refuse_what_is_no_dose_series(make_repeats) -> None:
    one, two = _sets(make_repeats, [25, 100], count=3)
    with pytest.raises(DataError, match="two or more mAs"):
        fit_dose([one, replace(two, mas=25.0)])
    with pytest.raises(DataError, match="mAs of every set"):
        fit_dose([one, replace(two, mas=None)])
    with pytest.raises(DataError, match="matrix or pixel size"):
        fit_dose([one, replace(two, pixels=two.pixels[:, :-1])])


def test_warnings_outside_what_was_measured() -> None:
    assert DoseLaw(25.0).warnings([12.5, 25, 50]) == []
    assert "far below" in DoseLaw(25.0).warnings([5.0])[0]
    assert "far above" in DoseLaw(25.0).warnings([200.0])[0]

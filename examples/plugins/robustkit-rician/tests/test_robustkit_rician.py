import numpy as np
from robustkit_rician import Rician
from scipy.stats import rice

from robustkit import draws, registry
from robustkit.testing import check_noise_model

PHANTOM = np.zeros((64, 64), np.float32)  # background without signal, tissue of 200, lesion of 400
PHANTOM[8:56, 8:56] = 200.0
PHANTOM[24:40, 24:40] = 400.0


def test_conforms():
    check_noise_model(Rician, clean=PHANTOM)


def test_conforms_on_any_image():
    check_noise_model(Rician)


def test_sd_is_that_of_the_rice_distribution():
    levels = [0.5, 2.0, 8.0]
    _, sigma = Rician().parts(PHANTOM.astype(np.float64), levels)
    expected = rice.std(PHANTOM / sigma, scale=sigma)
    np.testing.assert_allclose(Rician().sd(PHANTOM, levels), expected, rtol=1e-5)


def test_background_is_rayleigh():
    _, sigma = Rician().parts(PHANTOM, [5.0])
    noise = Rician().sample(PHANTOM, [5.0], draws(0, "audit", "phantom", range(64)))
    background = noise[..., PHANTOM == 0]
    # 98,304 values: the mean has a standard error of 0.2 %, 2 % is ten of them
    np.testing.assert_allclose(background.mean(), sigma.item() * np.sqrt(np.pi / 2), rtol=0.02)


def test_higher_snr_is_quieter():
    low, high = Rician().sd(PHANTOM, [5.0, 50.0])
    np.testing.assert_allclose(low[30, 30], 10 * high[30, 30], rtol=0.02)


def test_robustkit_offers_it():
    installed = registry.load()
    assert installed.info("rician").reason == ""
    assert list(installed.offers("rician")["noise model"]) == ["rician"]

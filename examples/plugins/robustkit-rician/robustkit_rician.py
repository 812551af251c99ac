"""Rician noise of MR magnitude images; the level is the SNR (Gudbjartsson and Patz 1995)."""

import numpy as np

import robustkit


class Rician:
    unit = "SNR"
    zero_mean = False  # a magnitude is never negative: noise lifts the background
    needs_repeats = False

    def __init__(self, repeats=None):
        """Fit nothing: the clean image and the SNR say it all."""

    def sample(self, clean, levels, draws):
        signal, sigma = self.parts(clean, levels)
        white = np.stack([d.generator().standard_normal((2, 1, *clean.shape), dtype=np.float32) for d in draws])
        return np.hypot(signal + sigma * white[:, 0], sigma * white[:, 1]) - signal

    def sd(self, clean, levels):
        from scipy.special import ive  # exponentially scaled Bessel functions: no overflow at high SNR

        signal, sigma = (part.astype(np.float64) for part in self.parts(clean, levels))
        x = (signal / sigma) ** 2 / 4
        mean = np.sqrt(np.pi / 2) * sigma * ((1 + 2 * x) * ive(0, x) + 2 * x * ive(1, x))
        return np.sqrt(np.maximum(2 * sigma**2 + signal**2 - mean**2, 0))

    def parts(self, clean, levels):  # magnitude (H, W) and sd of one channel (L, 1, 1)
        signal = np.maximum(clean, 0)
        bright = signal[signal > np.percentile(signal, 99) / 2].mean()
        return signal, (bright / np.asarray(levels, np.float32))[:, None, None]


@robustkit.hookimpl
def robustkit_noise_models():
    return {"rician": Rician}

"""The page's code runs as it stands, and the example does what it says."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def test_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("maite", "art", "nrtk"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "interop.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    exec("\n".join(blocks), {})


def test_example_of_a_training_transform() -> None:
    spec = importlib.util.spec_from_file_location("training_noise", ROOT / "examples" / "training_noise.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    settings = {"noise": "white", "settings": {"sigma": 20.0, "reference_mas": 100.0}}
    image = np.zeros((1, 32, 32), np.float32)

    def run(seed: int) -> list[np.ndarray]:
        transform = module.RandomDose(["image"], lowest=25.0, highest=100.0, seed=seed, **settings)
        return [transform({"image": image, "label": 1})["image"] for _ in range(20)]

    first, again, other = run(0), run(0), run(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    sds = [float(found.std()) for found in first]
    assert 19 < min(sds) < 28
    assert 29 < max(sds) < 42
    assert first[0].shape == image.shape

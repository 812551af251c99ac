"""Mutated files of every kind: a clean error or a valid result. A sample here, the whole corpus in the slow run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fuzz import corpus, judge

from robustkit import scans

QUICK = ("dicom", "npz", "onnx", "toml", "profile", "run")


def test_the_corpus_is_the_same_every_time():
    valid = corpus._a_toml(Path())
    made = [corpus.example("toml", i, valid) for i in range(30)]
    assert made == [corpus.example("toml", i, valid) for i in range(30)]
    assert len(set(made)) > 20


def test_the_judge_tells_a_wrong_answer_from_a_right_one(monkeypatch, tmp_path):
    valid = corpus._an_npz(tmp_path)
    assert judge.judge("npz", valid, tmp_path) == "valid"
    right = scans.load_images

    def shifted(path):
        return [replace(item, pixels=item.pixels + 1) for item in right(path)]

    monkeypatch.setattr(scans, "load_images", shifted)
    assert judge.judge("npz", valid, tmp_path) == "silent wrong answer: other HU than the file holds"
    monkeypatch.setattr(scans, "load_images", lambda _: 1 / 0)
    assert judge.judge("npz", valid, tmp_path).startswith("traceback: ZeroDivisionError")


@pytest.mark.parametrize("kind", QUICK)
def test_a_sample_of_the_corpus(kind):
    found = judge.figures({kind: corpus.COUNTS[kind]}, stride=29)
    assert found["wrong"] == []
    assert found["past_header"] >= found["examples"] / 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own, on TensorFlow
def test_the_whole_corpus():
    assert sum(corpus.COUNTS.values()) >= 2000
    found = judge.figures(corpus.COUNTS)
    assert found["wrong"] == []
    assert found["past_header"] >= found["examples"] / 2
    with TemporaryDirectory() as folder:
        assert found["kinds"].keys() == corpus.seeds(Path(folder)).keys()

"""The parts of a report against what they must do: pictures decode, labels keep apart, numbers are written rightly."""

from __future__ import annotations

import base64
import io
import itertools
import math
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit.report import gallery, matrix, png, words
from robustkit.report.chart import (
    NARROW,
    WIDE,
    Axis,
    Point,
    Series,
    draw,
    level_axis,
    nice_ticks,
    shorten,
    spread,
    thin,
)


def decode(uri: str) -> tuple[dict[bytes, bytes], np.ndarray]:
    """Return the chunks of a PNG and its pixels, read by the specification (no filter, 8 bits)."""
    raw = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    stream, chunks = io.BytesIO(raw[8:]), {}
    while head := stream.read(8):
        length, kind = struct.unpack(">I4s", head)
        data = stream.read(length)
        assert struct.unpack(">I", stream.read(4))[0] == zlib.crc32(kind + data)
        chunks[kind] = data
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return chunks, rows[:, 1:]


def test_a_band_in_common_is_drawn_once() -> None:
    def series(name: str, style: int, y: float) -> Series:
        return Series(name, style, tuple(Point(x, y, 0.0, y + 0.1, "") for x in (1.0, 2.0)))

    y = Axis("", 0.0, 1.0, (0.0, 1.0))
    drawn = draw([series("a", 0, 0.0), series("b", 1, 0.0), series("c", 2, 0.5)], level_axis([1, 2], ""), y, WIDE)
    assert [bool(c.band) for c in drawn.curves] == [True, False, True]
    assert [c.shared for c in drawn.curves] == [True, True, False]


def test_grey_picture_spans_its_window() -> None:
    _, pixels = decode(png.grey(np.array([[-200.0, -100.0, 0.0], [100.0, 200.0, 1e4]]), -100, 100))
    assert pixels.tolist() == [[0, 0, 128], [255, 255, 255]]


def test_colour_map_leaves_out_what_is_no_number() -> None:
    chunks, pixels = decode(png.coloured(np.array([[0.0, 10.0, np.nan, np.inf]]), 0, 10))
    assert pixels.tolist() == [[0, 254, 255, 255]]
    assert chunks[b"tRNS"][255] == 0
    assert len(chunks[b"PLTE"]) == 3 * 256


def test_palette_brightens_all_the_way() -> None:
    luminance = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in png.palette()]
    assert all(b >= a - 1 for a, b in itertools.pairwise(luminance))  # whole colour steps: up to 1 by rounding
    assert luminance[::25] == sorted(luminance[::25])


def test_shrinking_keeps_the_mean() -> None:
    image = np.arange(64.0).reshape(8, 8)
    small = png.shrink(image, 4)
    assert small.shape == (4, 4)
    assert small.mean() == pytest.approx(image.mean())
    assert small[0, 0] == pytest.approx((0 + 1 + 8 + 9) / 4)


def test_shrinking_leaves_a_small_image_alone() -> None:
    assert png.shrink(np.ones((5, 7)), 8).shape == (5, 7)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=20))
def test_labels_keep_apart_and_in_order(targets: list[float]) -> None:
    placed = spread(targets, 15.0, 0.0, 300.0)
    ordered = [placed[i] for i in sorted(range(len(targets)), key=lambda i: targets[i])]
    assert all(b - a >= 15.0 - 1e-6 for a, b in itertools.pairwise(ordered))
    assert min(placed) >= -1e-6
    assert max(placed) <= 300 + 1e-6


def test_labels_with_room_stay_where_they_belong() -> None:
    assert spread([10.0, 100.0, 50.0], 15.0, 0.0, 300.0) == [10.0, 100.0, 50.0]


def test_labels_that_touch_share_the_shift() -> None:
    assert spread([100.0, 100.0], 20.0, 0.0, 300.0) == [90.0, 110.0]


@given(st.floats(1e-3, 1e6))
def test_ticks_are_round_and_cover(high: float) -> None:
    ticks = nice_ticks(0.0, high)
    assert ticks[0] == 0
    assert ticks[-1] >= high * (1 - 1e-9)
    assert 2 <= len(ticks) <= 8
    mantissa = ticks[1] / 10 ** math.floor(math.log10(ticks[1]) + 1e-9)
    assert min(abs(mantissa - m) for m in (1, 2, 2.5, 5, 10)) < 1e-6


@given(st.lists(st.floats(0, 800), min_size=1, max_size=60, unique=True))
def test_kept_tick_labels_do_not_touch(places: list[float]) -> None:
    ticks = thin([(at, "37.5") for at in sorted(places)], 8.0)
    shown = [t.at for t in ticks if t.text]
    assert all(b - a >= 4 * 8.0 for a, b in itertools.pairwise(shown))
    assert len(ticks) == len(places)


def test_equal_dose_ratios_are_equally_far_apart() -> None:
    place = Axis("", 12.5, 500.0, (), log=True).place(0.0, 100.0)
    assert place(25) - place(12.5) == pytest.approx(place(400) - place(200))
    assert place(12.5) == pytest.approx(0)
    assert place(500) == pytest.approx(100)


def test_levels_with_zero_get_a_linear_axis() -> None:
    assert not level_axis([0.0, 5.0], "").log
    assert level_axis([1.0, 5.0], "").log


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_points_lie_inside_the_plot(size: object) -> None:
    series = [
        Series(f"class {i}", i, tuple(Point(x, i / 30, i / 40, i / 20, "") for x in (10, 20, 40))) for i in range(12)
    ]
    y = Axis("", 0, 0.6, (0, 0.2, 0.4, 0.6), scale=100)
    plot = draw(series, level_axis([10, 20, 40], ""), y, size, limit=(0.02, "limit"))
    for curve in plot.curves:
        for mark in curve.marks:
            assert plot.left < mark.x < plot.right
            assert plot.top <= mark.y <= plot.bottom
    heights = sorted(label.y for label in plot.labels)
    assert len(heights) == 13
    assert min(b - a for a, b in itertools.pairwise(heights)) >= size.font * 1.29  # type: ignore[attr-defined]


def test_labels_stand_where_curves_lie_apart() -> None:
    rising = [
        Series(n, i, (Point(0, 0, None, None, ""), Point(10, v, None, None, "")))
        for i, (n, v) in enumerate([("a", 0.2), ("b", 0.9)])
    ]
    y = Axis("", 0, 1, (0, 0.5, 1))
    assert draw(rising, level_axis([0, 10], ""), y, WIDE).labels_right
    falling = [Series(s.name, s.style, tuple(Point(10 - p.x, p.y, None, None, "") for p in s.points)) for s in rising]
    assert not draw(falling, level_axis([0, 10], ""), y, WIDE).labels_right


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0.057, "5.7 %"), (0.0, "0 %"), (1.0, "100 %"), (0.0037, "0.37 %"), (0.99995, "> 99.99 %"), (0.00002, "< 0.01 %"),
     (0.9995, "99.95 %"), (None, "–"), (float("nan"), "–")],
)  # fmt: skip
def test_rates_are_written_honestly(rate: float | None, text: str) -> None:
    assert words.percent(rate).replace(words.THIN, " ") == text


@given(st.floats(1e-9, 1 - 1e-9))
def test_a_rate_that_is_not_certain_never_reads_so(rate: float) -> None:
    text = words.percent(rate).replace(words.THIN, " ")
    assert text not in ("0 %", "0.00 %", "100 %", "100.0 %", "100.00 %")


@pytest.mark.parametrize(
    ("rate", "shade"), [(0.0, "o0"), (1e-6, "o1"), (0.0625, "o2"), (0.25, "o4"), (0.5625, "o6"), (1.0, "o8")]
)
def test_shades_follow_the_square_root(rate: float, shade: str) -> None:
    assert matrix.shade(rate, diagonal=False) == shade


def test_columns_never_predicted_are_undefined() -> None:
    summary = {"classes": ["A", "B"], "unit": "mAs", "sar": []}
    heat = matrix.heat({"level": 25.0, "counts": [[9, 0], [1, 0]]}, summary)
    assert heat.undefined == ["B"]
    assert [cell.shade for _, cells in heat.rows for cell in cells] == ["d8", "undefined", "o3", "undefined"]


def test_windows_fit_the_body_site() -> None:
    ct = np.array([[-1000.0, 40.0]])
    assert gallery.window_for("C", ct).name == "lung"
    assert gallery.window_for("LF", ct).name == "bone"
    assert gallery.window_for("malignant", ct).limits == (-160.0, 240.0)
    low, high = gallery.window_for("malignant", np.linspace(0.0, 1.0, 101)).limits
    assert (low, high) == pytest.approx((0.01, 0.99))


def test_two_most_probable_classes_in_order() -> None:
    top = gallery.top_two({"a": 0.1, "b": 0.6, "c": 0.3})
    assert [(name, text) for name, text, _ in top] == [("b", "0.600"), ("c", "0.300")]
    assert gallery.top_two(None) == []


@given(st.text(max_size=40), st.integers(3, 20))
def test_short_names_fit_and_short_ones_stay(text: str, limit: int) -> None:
    short = shorten(text, limit)
    assert len(short) <= limit
    assert short == text or len(text) > limit


def test_nested_records_become_lines() -> None:
    lines = list(words.flatten({"a": {"b": 1.5, "c": True}, "d": [1, 2], "e": [{"f": None}]}))
    assert lines == [("a.b", "1.5"), ("a.c", "yes"), ("d", "1, 2"), ("e.0.f", "–")]

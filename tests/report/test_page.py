"""The audit report as a document: its policy, its escaping, its numbers, and what it does without some files."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from robustkit.errors import DataError
from robustkit.report import write_report
from robustkit.report.words import unbroken

Get = Callable[..., Path]
SPECIMENS = (
    "usual", "three", "twelve", "one-level", "forty-levels", "twelve-forty", "all-zeros", "all-flips", "undefined",
    "sigma", "hostile",
)  # fmt: skip
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """A parsed page: tags with attributes, text by enclosing tag, and whether every tag was closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.unbalanced: list[str] = []
        self.html = html
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        for tag in self.open[-1:]:
            self.text.setdefault(tag, []).append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def words(self) -> str:
        kept = [part for tag, parts in self.text.items() if tag not in ("style", "script") for part in parts]
        return re.sub(r"[ \n]+", " ", " ".join(kept))


Pages = Callable[..., Page]


@pytest.fixture(scope="module")
def page_of(specimen: Get) -> Callable[..., Page]:
    """Return a function that gives the parsed report of a specimen, made once."""

    @functools.cache
    def get(name: str, **changes: object) -> Page:
        return Page(write_report(specimen(name, **changes)).read_text(encoding="utf-8"))

    return get


@pytest.mark.parametrize("name", SPECIMENS)
def test_page_is_well_formed(page_of: Pages, name: str) -> None:
    page = page_of(name)
    assert page.unbalanced == []
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", SPECIMENS)
def test_references_name_existing_ids(page_of: Pages, name: str) -> None:
    page = page_of(name)
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    named = {
        target
        for _, attrs in page.tags
        for key in ("aria-labelledby", "aria-describedby")
        for target in attrs.get(key, "").split()
    }
    clips = {attrs["clip-path"][5:-1] for _, attrs in page.tags if "clip-path" in attrs}
    assert named | clips <= ids


@pytest.mark.parametrize("name", SPECIMENS)
def test_nothing_outside_the_file_is_named(page_of: Pages, name: str) -> None:
    page = page_of(name)
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "use")
        assert not any(key.startswith("on") or key == "style" for key in attrs)
        assert attrs.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert attrs.get("href", "#").startswith("#")
    style = "".join(page.text["style"])
    assert "url(" not in style
    assert "@import" not in style


def test_policy_admits_this_style_and_this_script_alone(page_of: Pages) -> None:
    page = page_of("usual")
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    for tag in ("style", "script"):
        assert len(page.all(tag)) == 1
        digest = hashlib.sha256("".join(page.text[tag]).encode()).digest()
        assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", [n for n in SPECIMENS if n != "twelve-forty"])
def test_usual_runs_stay_below_a_megabyte(page_of: Pages, name: str) -> None:
    assert len(page_of(name).html.encode()) < 1_000_000


def test_the_largest_run_stays_below_two_megabytes(page_of: Pages) -> None:
    assert len(page_of("twelve-forty", flips=40).html.encode()) < 2_000_000


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (None, "None of this noise was measured on your scanner"),
        ("library curve B30f, not measured on this scanner", "None of this noise was measured on your scanner"),
        ("measured", "The noise was measured"),
    ],
)
def test_acquisition_sheet_says_what_it_is_for(specimen: Get, tmp_path: Path, source: str | None, told: str) -> None:
    run = Path(shutil.copytree(specimen("one-level"), tmp_path / "run"))
    noise = json.loads((run / "noise.json").read_text())
    (run / "noise.json").write_text(json.dumps([r if source is None else r | {"source": source} for r in noise]))
    words = Page(write_report(run).read_text(encoding="utf-8")).words()
    assert told in words
    assert words.count("no SOP Instance UID twice") == 1


def test_noise_that_no_scanner_makes_has_no_acquisition_sheet(page_of: Pages) -> None:
    assert "Acquisition sheet" not in page_of("sigma").words()


def test_markup_in_names_is_text(specimen: Get, page_of: Pages) -> None:
    page = page_of("hostile")
    assert len(page.all("script")) == 1
    assert all(attrs["src"].startswith("data:") for attrs in page.all("img"))
    name = json.loads((specimen("hostile") / "summary.json").read_text())["model"]
    assert "<script>" in name
    shown = name.replace("\u202e", "\N{REPLACEMENT CHARACTER}")
    assert shown in page.words()
    assert "\u202e" not in page_of("hostile").html


@pytest.mark.parametrize("name", ["usual", "three", "twelve", "undefined", "one-level", "forty-levels"])
def test_table_holds_every_count_of_the_summary(specimen: Get, page_of: Pages, name: str) -> None:
    words = page_of(name).words()
    summary = json.loads((specimen(name) / "summary.json").read_text())
    for record in summary["sar"]:
        expected = f"{record['k']}/{record['n']:,}".replace(",", "\u202f") if record["n"] else "undefined"
        assert expected in words


def test_rates_are_written_beside_their_counts(specimen: Get, page_of: Pages) -> None:
    html = page_of("usual").html
    summary = json.loads((specimen("usual") / "summary.json").read_text())
    record = next(r for r in summary["sar"] if r["class"] == "C" and r["level"] == 25.0)
    cell = re.search(
        rf"<td[^>]*><b>([\d.]+)\u202f%</b>[^/]*</span></span> <small><span class=\"kn\">{record['k']}/", html
    )
    assert cell is not None
    assert float(cell[1]) == pytest.approx(100 * record["k"] / record["n"], abs=0.05)


def test_matrices_hold_every_count(specimen: Get, page_of: Pages) -> None:
    html = page_of("usual").html
    summary = json.loads((specimen("usual") / "summary.json").read_text())
    chooser = html[html.index('class="chooser"') :]
    for matrix in summary["cmr"]:
        part = chooser[chooser.index(f'data-level="{matrix["level"]:g}"') :]
        body = part[part.index("<tbody>") : part.index("</tbody>")]
        assert [int(c) for c in re.findall(r"<b>(\d+)</b>", body)] == [c for row in matrix["counts"] for c in row]


def test_undefined_columns_are_not_zero(page_of: Pages) -> None:
    html = page_of("undefined").html
    assert html.count('class="undefined"') >= 2 * 13
    assert "Hatched columns are undefined: C, LF" in re.sub(r"\s+", " ", html)


def test_ties_are_shown(page_of: Pages) -> None:
    words = page_of("usual").words()
    assert re.search(r"\d tied", words)
    assert "† includes ties" in words


@pytest.mark.parametrize(
    ("name", "kind"), [("usual", "fail"), ("all-flips", "fail"), ("all-zeros", "pass"), ("twelve", "none")]
)
def test_verdict_comes_first(specimen: Get, page_of: Pages, name: str, kind: str) -> None:
    html = page_of(name).html
    sections = re.findall(r'<section class="([^"]*)"', html)
    assert sections[0] == f"verdict {kind}"
    sentence = json.loads((specimen(name) / "summary.json").read_text())["verdict_sentence"]
    assert unbroken(sentence.split(": ", 1)[-1][1:]) in page_of(name).words()


def test_a_summary_without_a_sentence_gets_one(specimen: Get, tmp_path: Path) -> None:
    summary = json.loads((specimen("usual") / "summary.json").read_text())
    del summary["verdict_sentence"]
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    words = Page(write_report(tmp_path).read_text(encoding="utf-8")).words()
    assert "class C at 25\u202fmAs" in words
    assert "above the limit of 2\u202f%" in words


@pytest.mark.parametrize(
    "missing", ["run.json", "results.parquet", "noise.json", "noise.npz", "gallery.json", "gallery.npz"]
)
def test_a_missing_file_costs_its_section_only(specimen: Get, tmp_path: Path, missing: str) -> None:
    run = shutil.copytree(specimen("usual"), tmp_path / "run")
    (run / missing).unlink()
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert page.unbalanced == []
    assert "How often noise changes the answer" in page.words()


@pytest.mark.parametrize(
    "broken", ["run.json", "results.parquet", "noise.json", "noise.npz", "gallery.json", "gallery.npz"]
)
def test_a_broken_file_costs_its_section_only(specimen: Get, tmp_path: Path, broken: str) -> None:
    run = shutil.copytree(specimen("usual"), tmp_path / "run")
    (run / broken).write_bytes(b"\x00not what it should be")
    assert Page(write_report(run).read_text(encoding="utf-8")).unbalanced == []


def test_a_summary_alone_is_enough(specimen: Get, tmp_path: Path) -> None:
    shutil.copy(specimen("usual") / "summary.json", tmp_path)
    words = Page(write_report(tmp_path).read_text(encoding="utf-8")).words()
    assert "Not in the run directory" in words


def test_no_summary_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"summary\.json"):
        write_report(tmp_path)


def test_every_flip_shows_three_pictures_and_its_command(page_of: Pages) -> None:
    page = page_of("usual")
    commands = re.findall(r"--realization", page.words())
    assert len(commands) == 4
    assert sum("Noise at" in img["alt"] for img in page.all("img")) == 4
    assert sum(img["alt"].startswith("Noisy image, answered") for img in page.all("img")) == 4


def test_provenance_tells_what_makes_the_run_again(page_of: Pages) -> None:
    words = page_of("usual").words()
    assert "robustkit audit specimen-net.onnx --noise nps --max-sar 2% --at 25" in " ".join(words.split())
    for told in ("9c1f" * 16, "robustkit 0.1.0, python 3.11.7", "61.2 s", "ab" * 32, "answers that changed"):
        assert told in words


def test_dose_is_told_with_ctdivol_and_size(page_of: Pages) -> None:
    page = page_of("usual")
    assert {"5.1", "40.8", "312.5"} <= set(page.text["td"])
    assert "CTDIvol, mGy" in page.text["th"]
    assert "CTDIvol, mGy" not in page_of("sigma").text["th"]


def test_lowest_levels_tell_where_the_curve_reaches_the_limit(page_of: Pages) -> None:
    told = [text for text in page_of("usual").text["small"] if "reaches 2" in text]
    # C falls as 0.9 / (1 + (m / 28) ** 1.9): 2 % at 28 * 44 ** (1 / 1.9) = 205 mAs, between tested levels 175 and 325
    found = re.search(r"at (\d+) \((\d+)\u202f–\u2060\u202f(\d+)\)", told[1])
    assert found is not None
    level, low, high = map(float, found.groups())
    assert low <= level <= high
    assert low <= 205 <= high


def test_contents_lead_to_every_section(page_of: Pages) -> None:
    page = page_of("usual")
    targets = [a["href"].removeprefix("#") for a in page.all("a") if a["href"] != "#main"]
    assert targets == [h["id"] for h in page.all("h2") if "id" in h and "class" not in h]


def test_limits_of_validity_are_told(page_of: Pages) -> None:
    words = page_of("usual").words()
    assert "Only noise was varied" in words
    assert "uncertain by 16\u202f%" in words  # 1 / sqrt(2 (K - 1)), K = 20
    assert "52.7\u202f%" in words  # 1 - 0.05 ** (1 / 4): no flips in any of four slices
    assert "must not be set on a real scanner" in words


def test_effective_level_adds_variances(page_of: Pages) -> None:
    words = page_of("usual").words()
    assert "444.4" in words  # 1 / (1 / 500 + 1 / (20 * 200))


def test_pictures_have_alternatives(page_of: Pages) -> None:
    page = page_of("usual")
    assert all("alt" in img for img in page.all("img"))
    assert all(svg.get("aria-hidden") == "true" or svg.get("role") == "group" for svg in page.all("svg"))
    assert {"lang": "en"}.items() <= page.all("html")[0].items()


def test_points_say_their_numbers(specimen: Get, page_of: Pages) -> None:
    page = page_of("usual")
    labels = {attrs["aria-label"] for attrs in page.all("path") if attrs.get("role") == "img"}
    summary = json.loads((specimen("usual") / "summary.json").read_text())
    record = next(r for r in summary["sar"] if r["class"] == "LF" and r["level"] == 12.5)
    expected = f"{record['k']}/1\u202f000"
    assert any(label.startswith("LF at 12.5\u202fmAs") and expected in label for label in labels)


def test_the_same_run_gives_the_same_page(specimen: Get, page_of: Pages) -> None:
    assert write_report(specimen("usual")).read_text(encoding="utf-8") == page_of("usual").html

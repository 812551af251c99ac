"""What is audited and with which noise: images, repeats and profiles found, matched, and made into cases.

The noise of a slice comes from the first of: a profile, repeat scans, repeats simulated by the virtual scanner for
that very slice. Whichever it was, the case's story says so in a sentence.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustkit import registry, remote, spill
from robustkit.audit import Case, stored
from robustkit.dosimetry import dose_facts
from robustkit.errors import DataError, UsageError
from robustkit.types import Fit, Image, RepeatScans, Slice

if TYPE_CHECKING:
    from robustkit.noise import Profile

PHANTOM = "phantom"
SIMULATED_K = 20
SIMULATED_FIT_MAS = 25.0
SIMULATED_CENTRE_MAS = 200.0


@dataclass(frozen=True, eq=False)
class Source:
    """One slice and what its noise is fitted from: repeats at one or more mAs, or a profile, or neither (simulate)."""

    slice: Slice
    repeats: tuple[RepeatScans, ...] = ()
    profile: Profile | None = None
    clean: Image | None = None
    clean_from: str = "slice"


@dataclass(frozen=True)
class NoiseChoice:
    """Which noise model, with which `--set` settings, and the seed of the simulated repeats it may be fitted to."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    image_mas: float | None = None

    def fingerprint(self, source: Source) -> str:
        """Hash of everything in a source that decides its noise."""
        digest = hashlib.blake2b(digest_size=8)
        for part in (self.name, sorted(self.settings.items()), self.seed, self.image_mas, *_decides(source.slice)):
            digest.update(repr(part).encode())
        for repeats in source.repeats:
            digest.update(f"{repeats.mas}{repeats.pixel_mm}{repeats.anchored}".encode())
            for part in _decides(repeats):
                digest.update(repr(part).encode())
            digest.update(np.ascontiguousarray(repeats.pixels).data)
        if source.profile is not None:
            digest.update(f"{source.profile.id}{source.profile.mas}{source.profile.patch}".encode())
            digest.update(np.ascontiguousarray(source.profile.spectra).data)
            digest.update(np.ascontiguousarray(source.profile.sigma).data)
        if source.clean is not None:
            digest.update(np.ascontiguousarray(source.clean).data)
        return digest.hexdigest()


def _decides(item: Slice | RepeatScans) -> tuple[Any, ...]:
    """Return what besides its pixels decides what is made of an image."""
    mask = None if item.mask is None else hashlib.blake2b(np.ascontiguousarray(item.mask).data).hexdigest()
    return item.id, mask, item.storage, item.mas, item.kernel, item.synthetic, sorted(item.protocol.items())


def find_images(path: str | None) -> list[Slice]:
    """Return the slices at a path or of a name; without one, the built-in phantom's."""
    found = registry.default().load_images(_local(path or PHANTOM))
    if found is None:
        if path is None or path.startswith(PHANTOM):
            raise DataError(
                "no phantom is installed to audit; pip install robustkit-ct-bodysite, or name images with --images"
            )
        raise DataError("no images at the path given: no such file or folder")
    for item in found:
        refuse_unusable(item.pixels, "image")
        spill.forget()
    return list(found)


def find_repeats(path: str) -> list[RepeatScans]:
    """Return the repeat scans at a path, one entry a slice and mAs."""
    found = registry.default().load_repeats(_local(path))
    if found is None:
        raise DataError("no repeat scans at the path given: no such file or folder")
    for item in found:
        refuse_unusable(item.pixels, "repeat scan")
        spill.forget()
    return list(found)


def _local(path: str) -> str:
    """Return a path as it is, a URL as the path of its local copy (itself when nothing is there)."""
    if not remote.is_url(path):
        return path
    return str(remote.fetch_images(path) or path)


def refuse_unusable(pixels: Image, what: str) -> None:
    """Refuse pixels that are not all finite."""
    bad = int(pixels.size - np.isfinite(pixels).sum())
    if bad:
        raise DataError(
            f"the {what} has {bad} pixels that are NaN or infinite; set them to the value of air (-1000 HU)"
        )


def gather(images: str | None, repeats: str | None, profiles: Sequence[str], clean: str | None) -> list[Source]:
    """Return the sources of one audit: images matched to repeats, profiles and clean references.

    Parameters are the command line's: `--images`, `--repeats`, `--profile` (any number), `--clean` (PATH|mean|slice).
    Raises UsageError where they contradict each other, DataError where they cannot be matched.
    """
    if repeats and profiles:
        raise UsageError("--repeats and --profile both say where the noise comes from; give one of them")
    if repeats and not images:
        sources = [_from_repeats(group) for group in by_slice(find_repeats(repeats))]
    else:
        sources = attach([Source(item) for item in find_images(images)], repeats, profiles)
        if not images:
            sources = [_simulate(source) for source in sources]
    return _with_clean(sources, clean, default="slice" if images else "mean")


def attach(sources: Sequence[Source], repeats: str | None, profiles: Sequence[str]) -> list[Source]:
    """Return sources with the repeats or the profiles at these paths, matched by id, else by position."""
    joined = list(sources)
    if repeats:
        joined = _match(joined, by_slice(find_repeats(repeats)), "repeats", _with_repeats)
    if profiles:
        found = [_load_profile(path, number, len(profiles)) for number, path in enumerate(profiles, 1)]
        joined = _match(joined, found, "profile", _with_profile)
    return joined


def _load_profile(path: str, number: int, of: int) -> Profile:
    from robustkit.noise import load_profile

    try:
        return load_profile(path)
    except DataError as error:
        raise DataError(f"profile {number} of {of}: {error}" if of > 1 else str(error)) from None


def prepare(source: Source, choice: NoiseChoice) -> Case:
    """Return the case of one source: noise fitted, clean image settled, its story told."""
    fit = registry.default().noise_model(choice.name)
    source = anchored(source, choice)
    clean, centre = clean_image(source)
    settings = dict(choice.settings)
    if source.profile is not None and settings.get("library") is True:
        del settings["library"]
    if settings.get("add_to_source") is True:
        settings["add_to_source"] = _source_mas(source, choice)
    profile = None
    if source.profile is not None:
        from_profile = getattr(fit, "from_profile", None)
        if from_profile is None:
            raise UsageError(f"noise model {choice.name!r} cannot start from a profile; give --repeats instead")
        profile = _profile_for(source, choice, forced=settings.pop("transplant", False) is True)
        noise = _fitted(from_profile, profile, settings, choice.name)
        origin = (
            f"profile: {profile.source}"
            if profile is not source.profile
            else f"profile of {profile.id} ({profile.source})"
        )
    else:
        noise = _fitted(fit, _fit_data(fit, source.repeats), settings, choice.name)
        origin = fit_set(source.repeats).source if source.repeats else "stated settings"
    story = {
        "slice": source.slice.id,
        "label": source.slice.label,
        "group": source.slice.group,
        "noise": choice.name,
        "source": origin,
        "clean": centre,
        "anchored": all(repeats.anchored for repeats in source.repeats)
        and (profile is None or profile.report.get("anchored", True)),
        "beam": dose_facts(source.slice, source.repeats),
        "report": dict(getattr(noise, "report", {}) or {}),
    }
    return Case(source.slice, clean, noise, story)


def _profile_for(source: Source, choice: NoiseChoice, *, forced: bool) -> Profile:
    """Return the profile as it is for the slice it was measured on, or when forced; else made over for this slice."""
    from robustkit.acquisition import mismatches
    from robustkit.noise.transplant import transplant

    profile, item = source.profile, source.slice
    if profile is None:
        raise ValueError("a source without a profile")
    if profile.id == item.id or forced:
        return profile
    differ, _ = mismatches({**profile.protocol, "kernel": profile.kernel}, {**item.protocol, "kernel": item.kernel})
    if differ:
        raise DataError(
            f"the profile {profile.id} was measured with another protocol than slice {item.id}: {', '.join(differ)}; "
            "measure one with the image's protocol, or leave --profile out to have repeats simulated"
        )
    mas = choice.image_mas or item.mas
    sigma, where = (None, None) if mas is None else _measured(item)
    made = transplant(profile, item, sigma, where)
    return replace(made, mas=mas) if sigma is not None else made


def _library_profile(item: Slice, choice: NoiseChoice) -> Profile:
    """Return the published texture of the slice's kernel, with sigma re-projected from the slice and anchored to it."""
    from robustkit.noise.library import library_profile
    from robustkit.noise.transplant import transplant

    sigma, where = _measured(item)
    mas = choice.image_mas or item.mas
    if sigma is None or mas is None:
        lacks = "its noise cannot be measured in it" if sigma is None else "its mAs is unknown (give --image-mas)"
        raise DataError(f"library noise needs to know how loud slice {item.id} is, but {lacks}; leave library=true out")
    shape = (item.pixels.shape[0], item.pixels.shape[1])
    base = library_profile(item.kernel, sigma, item.pixel_mm, shape=shape, mas=mas, id=item.id, mask=item.mask)
    made = transplant(base, item, sigma, where)
    said = [*base.report["warnings"], f"sigma re-projected from this slice and anchored to the {sigma:.1f} HU in it"]
    return replace(made, source=base.source, report={**made.report, "warnings": said})


def _measured(item: Slice) -> tuple[float | None, NDArray[np.bool_] | None]:
    """Return the noise of a slice in HU and where it was read, or None and None."""
    from robustkit.scanner.measure import measured_sigma, windows_of

    where = None if item.synthetic else windows_of(item)
    return (None, None) if where is None else (measured_sigma(item), where)


def _fit_data(fit: Fit, repeats: Sequence[RepeatScans]) -> RepeatScans | Sequence[RepeatScans] | None:
    """Return what a fit takes: one set; or all sets, the quietest last, where it says that it fits a dose law."""
    if not repeats:
        return None
    first = fit_set(repeats)
    if len(repeats) > 1 and getattr(fit, "takes_several_sets", False):
        return [first, *(r for r in repeats if r is not first)]
    return first


def fit_set(repeats: Sequence[RepeatScans]) -> RepeatScans:
    """Return the repeats noise is fitted to: those at the lowest mAs, where noise is measured best."""
    return min(repeats, key=lambda r: math.inf if r.mas is None else r.mas)


def centre_set(repeats: Sequence[RepeatScans]) -> RepeatScans:
    """Return the repeats whose mean is the least noisy: the largest K times mAs."""
    return max(repeats, key=lambda r: len(r.pixels) * (r.mas or 0.0))


def refers_to_sigma(choice: NoiseChoice) -> bool:
    """Say whether the noise needs no repeats at all, being given by its settings."""
    return choice.name == "white" and ("sigma" in choice.settings or choice.settings.get("unit") == "sigma")


def _from_repeats(group: Sequence[RepeatScans]) -> Source:
    centre = centre_set(group)
    mean = Slice(
        id=centre.id,
        pixels=centre.clean,
        pixel_mm=centre.pixel_mm,
        label=centre.label,
        group=centre.group,
        mas=centre.mas,
        kernel=centre.kernel,
        mask=centre.mask,
        storage=centre.storage,
        protocol=centre.protocol,
        synthetic=centre.synthetic,
    )
    return Source(mean, tuple(group))


def by_slice(found: Sequence[RepeatScans]) -> list[list[RepeatScans]]:
    """Return the sets of scans of each slice, in the order in which slices first appear."""
    groups: dict[str, list[RepeatScans]] = {}
    for repeats in found:
        groups.setdefault(repeats.id, []).append(repeats)
    return list(groups.values())


def _simulate(source: Source) -> Source:
    return replace(source, clean_from="simulate")


def anchored(source: Source, choice: NoiseChoice) -> Source:
    """Give a source without repeats or profile the repeats that the virtual scanner makes of its very slice."""
    fit = registry.default().noise_model(choice.name)
    if source.repeats or source.profile is not None or refers_to_sigma(choice):
        return source
    if choice.settings.get("library") is True:
        return replace(source, profile=_library_profile(source.slice, choice))
    if getattr(fit, "needs_repeats", True) is False:  # such as the noise of another modality
        return source
    from robustkit.scanner import VirtualScanner, simulate_repeats

    if source.slice.synthetic:
        scanner = VirtualScanner()
        made = tuple(
            scanner.repeats(source.slice, mas, SIMULATED_K, seed=choice.seed, stream="fit")
            for mas in (SIMULATED_FIT_MAS, SIMULATED_CENTRE_MAS)
        )
        return replace(source, repeats=made)
    known = choice.image_mas or source.slice.mas
    repeats = simulate_repeats(source.slice, mas=known, k=SIMULATED_K, seed=choice.seed, stream="fit")
    return replace(source, repeats=(repeats,))


def clean_image(source: Source) -> tuple[Image, dict[str, Any]]:
    """Return the clean image, stored as the scanner stores it, and how noisy it is itself."""
    if source.clean is not None:
        return _settle(source, source.clean), {"from": "a given reference", "residual": None}
    if source.clean_from in ("mean", "simulate") and source.repeats:
        repeats = centre_set(source.repeats)
        told = {
            "from": f"mean of {len(repeats.pixels)} repeats",
            "k": len(repeats.pixels),
            "mas": repeats.mas,
        }
        return _settle(source, repeats.clean), told
    return _settle(source, source.slice.pixels), {"from": "the slice itself", "k": 1, "mas": source.slice.mas}


def _settle(source: Source, pixels: Image) -> Image:
    clean = stored(source.slice, np.array(pixels, dtype=np.float32))
    clean.flags.writeable = False
    return clean


def _source_mas(source: Source, choice: NoiseChoice) -> float:
    known = choice.image_mas or source.slice.mas
    if known is None:
        raise UsageError("--set add_to_source=true needs the image's own dose: give --image-mas")
    return known


def _fitted(fit: Fit, data: Any, settings: Mapping[str, Any], name: str) -> Any:
    accepted = accepted_settings(fit)
    unknown = sorted(set(settings) - accepted) if accepted is not None else []
    if unknown:
        raise UsageError(
            f"noise model {name!r} has no setting {unknown[0]!r}; it has: {', '.join(sorted(accepted or ())) or 'none'}"
        )
    return fit(data, **settings)


def accepted_settings(fit: Callable[..., Any]) -> set[str] | None:
    """Return the names a fit accepts as `--set`; None when it takes any."""
    import inspect

    parameters = list(inspect.signature(fit).parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters[1:]}


def _match(
    sources: Sequence[Source], found: Sequence[Any], what: str, join: Callable[[Source, Any], Source]
) -> list[Source]:
    def identity(item: Any) -> str:
        return str(item[0].id if isinstance(item, list) else item.id)

    by_id = {identity(item): item for item in found}
    if all(source.slice.id in by_id for source in sources):
        return [join(source, by_id[source.slice.id]) for source in sources]
    if len(found) == 1:
        return [join(source, found[0]) for source in sources]
    if len(found) == len(sources):
        return [join(source, item) for source, item in zip(sources, found, strict=True)]
    raise DataError(
        f"{len(sources)} images and {len(found)} {what} sets do not match: none by id, and their numbers differ; "
        f"give one set for all, or one for each image"
    )


def _with_repeats(source: Source, group: Sequence[RepeatScans]) -> Source:
    for repeats in group:
        _refuse_other_geometry(source.slice, repeats.pixels.shape[1:], repeats.pixel_mm, "repeats")
    return replace(source, repeats=tuple(group))


def _with_profile(source: Source, profile: Profile) -> Source:
    _refuse_other_geometry(source.slice, profile.shape, profile.pixel_mm, "profile")
    return replace(source, profile=profile)


def _refuse_other_geometry(item: Slice, shape: tuple[int, ...], pixel_mm: tuple[float, float], what: str) -> None:
    if item.pixels.shape != tuple(shape):
        raise DataError(
            f"the {what} are {shape[0]} x {shape[1]} px, the image is {item.pixels.shape[0]} x "
            f"{item.pixels.shape[1]} px; scan both with one matrix, or leave --{what} out to have repeats simulated"
        )
    if not np.allclose(item.pixel_mm, pixel_mm, rtol=1e-3):
        raise DataError(
            f"the {what} have {pixel_mm[0]:.3f} x {pixel_mm[1]:.3f} mm pixels, the image {item.pixel_mm[0]:.3f} x "
            f"{item.pixel_mm[1]:.3f} mm; scan both with one field of view"
        )


def _with_clean(sources: Sequence[Source], clean: str | None, default: str) -> list[Source]:
    if clean in (None, "mean", "slice"):
        chosen = clean or default
        return [
            source if source.clean_from == "simulate" and chosen == "mean" else replace(source, clean_from=chosen)
            for source in sources
        ]
    references = find_images(clean)

    def join(source: Source, reference: Slice) -> Source:
        _refuse_other_geometry(source.slice, reference.pixels.shape, reference.pixel_mm, "clean reference")
        return replace(source, clean=reference.pixels, clean_from="reference")

    return _match(sources, references, "clean reference", join)

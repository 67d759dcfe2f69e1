from __future__ import annotations

import pytest

from operators.series_selector.words import compile_words, cut_words, plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("t2_space_dark-fluid_sag_p2_iso", "t2 space dark fluid sag p2 iso"),
        ("AxT2FLAIR", "ax t2flair"),
        ("T1+C", "t1 +c"),
        ("T2*", "t2*"),
        ("Sag 3D FLAIR après injection", "sag 3d flair apres injection"),
        ("FLAIR tværsnit før kontrast", "flair tvaersnit foer kontrast"),
        ("Rygsøjle", "rygsoejle"),
        ("Ubersicht / Übersicht", "ubersicht ubersicht"),
        ("w/o", "w o"),
        (None, ""),
    ],
)
def test_plain(text: str | None, expected: str) -> None:
    assert plain(text) == expected


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("t1w?", "flair post t1w", True),
        ("t1", "flair post t1w", False),
        ("t2w?", "t2* gre", False),
        ("t2w?", "pd +t2 tse", True),
        ("før", "t1 foer kontrast", True),
        ("dir", "direct", False),
    ],
)
def test_whole_words(pattern: str, text: str, found: bool) -> None:
    assert (compile_words(pattern).search(text) is not None) is found


def test_what_is_cut_separates_its_neighbours() -> None:
    rest = cut_words("t1 uden kontrast km", [compile_words("uden kontrast")])
    assert compile_words("t1 km").search(rest) is None
    assert compile_words("km").search(rest)


@pytest.mark.parametrize("pattern", ["(t1", "t1|", "x*"])
def test_a_bad_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"regular expression|empty text"):
        compile_words(pattern)

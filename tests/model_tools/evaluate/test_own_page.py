"""The page's tables from made-up results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model_tools.evaluate.own_page import BEGIN, END, place, rendered
from model_tools.evaluate.summary import finite, summarise_all, write_cases
from operators.errors import ConfigurationError
from tests.model_tools.evaluate.test_summary import answer


def results(folder: Path) -> Path:
    answers = []
    for model, dice in (("net", 0.7), ("classical", 0.65)):
        for case, ml in (("a", 1.0), ("b", 30.0)):
            # the comparator is ahead on b
            value = dice + (0.1 if (case, model) == ("b", "classical") else 0.0)
            answers.append({**answer(model, case, value, ml, ""), "group": "2D"})
    shown = {**answers[0], "case": "c", "scores": {}, "remark": "t2 replaced by zeros"}
    regions = ("periventricular", "juxtacortical", "infratentorial", "deep_white_matter")
    shown["shown"] = {"lesions": 12.0, "ml": 4.0, "ml_unspecified": 0.0}
    shown["shown"] |= {f"ml_{region}": 1.0 for region in regions}
    answers.append(shown)
    summary = finite(summarise_all(answers, ["net", "classical"]))
    (folder / "summary.json").write_text(json.dumps(summary))
    write_cases(answers, folder / "cases.csv")
    return folder


def test_tables_and_where_the_comparator_is_ahead(tmp_path: Path) -> None:
    text = rendered(results(tmp_path))
    assert "| a | 1.0 | 0.70, 0.60, 1.1 | 0.65, 0.55, 1.1 |" in text
    assert "| **2D: mean** | 15.5 | **0.70, 0.60, 17.1** | **0.70, 0.60, 17.1** |" in text
    assert "net, Dice: better than the comparator on 1 of 2 cases; not on b (0.70 against" in text
    assert "| c | net | 12 | 4.0 | 25 % | 25 % | 25 % | 25 % | 0 % | t2 replaced by zeros |" in text


def test_the_marked_part_of_a_page_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert place(page, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert place(place(page, "new"), "new") == place(page, "new")
    with pytest.raises(ConfigurationError, match="no marks"):
        place("text", "new")


def test_results_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"summary\.json is missing"):
        rendered(tmp_path)

"""Which patches a step takes."""

from __future__ import annotations

from model_tools.train.recipe import Recipe


def test_every_third_step_sees_a_patch_as_wide_as_a_tile():
    recipe = Recipe(early_steps=4)
    assert [recipe.patches_at(step) for step in range(9)] == [
        *[(48, 2)] * 4,
        (64, 2),
        (96, 1),
        (64, 2),
        (64, 2),
        (96, 1),
    ]

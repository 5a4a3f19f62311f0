"""A search is decided by its seed, and goes on where it was interrupted."""

from pathlib import Path

import pytest

from ml_assets.sdk.declarations import OneOf, Real, Search, Whole
from ml_assets.sdk.search import best, trials_of
from ml_assets.sdk.trainers.trainer import Checkpoint, Parameters

SPACE = Search({"x": Real(-4.0, 4.0), "n": Whole(1, 9), "kind": OneOf(("flat", "steep"))}, trials=12)


def bowl(parameters: Parameters) -> float:
    x, n = float(parameters["x"] or 0), int(parameters["n"] or 0)
    return (x - 1) ** 2 + (n - 3) ** 2 + (parameters["kind"] == "steep")


def test_the_same_seed_tries_the_same_and_comes_near_the_best(tmp_path: Path) -> None:
    first = trials_of(SPACE, bowl, 7, Checkpoint(tmp_path / "first"))
    assert trials_of(SPACE, bowl, 7, Checkpoint(tmp_path / "second")) == first
    assert trials_of(SPACE, bowl, 8, Checkpoint(tmp_path / "third")) != first
    assert best(first).error < 5


def test_an_interrupted_search_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = trials_of(SPACE, bowl, 7, Checkpoint(tmp_path / "whole"))
    judged: list[Parameters] = []

    def killed_at_the_eighth(parameters: Parameters) -> float:
        judged.append(parameters)
        if len(judged) == 8:
            raise KeyboardInterrupt
        return bowl(parameters)

    with pytest.raises(KeyboardInterrupt):
        trials_of(SPACE, killed_at_the_eighth, 7, Checkpoint(tmp_path / "cut"))
    assert trials_of(SPACE, killed_at_the_eighth, 7, Checkpoint(tmp_path / "cut")) == whole
    assert len(judged) == SPACE.trials + 1


def test_a_search_without_a_finite_error_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no trial of the search had a finite error"):
        trials_of(SPACE, lambda _: float("inf"), 7, Checkpoint(tmp_path / "none"))

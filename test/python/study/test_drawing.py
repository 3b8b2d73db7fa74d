"""Results.plot(): what is drawn are the rows' numbers."""

from __future__ import annotations

from typing import Any

import pandas
import pytest

from sparkablate import Results, SparkablateError

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")


def results(rows: list[dict[str, Any]]) -> Results:
    frame = pandas.DataFrame([{"condition": "baseline", "kind": "baseline", "delta_nll": 0.0}, *rows])
    frame["layer"] = frame["layer"].astype("Int64")
    frame["heads"] = frame["heads"].astype("string")
    frame["distinguishable"] = frame["distinguishable"].astype("boolean")
    return Results(frame, pandas.DataFrame(), 31, pandas.DataFrame(), {"config": ""}, None)


def row(layer: int, head: int, effect: float, mode: str = "zero") -> dict[str, Any]:
    return {
        "condition": f"L{layer}.head[{head}].{mode}",
        "kind": "head",
        "layer": layer,
        "heads": str(head),
        "mode": mode,
        "delta_nll": effect,
        "ci95_low": effect - 0.1,
        "ci95_high": effect + 0.2,
        "distinguishable": effect > 0,
    }


def test_heads_are_a_map() -> None:
    made = results([row(layer, head, layer - head) for layer in (2, 5) for head in (0, 1, 3)])
    axes = made.plot()
    (image,) = axes.get_images()
    assert image.get_array().tolist() == [[2, 1, -1], [5, 4, 2]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "3"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["2", "5"]
    assert image.get_clim() == (-5, 5)


def test_the_most_harmful_are_bars() -> None:
    made = results([row(0, 0, 0.5), row(0, 1, -0.25), row(0, 2, 1.0)])
    axes = made.plot(top=2)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["L0.head[2].zero", "L0.head[0].zero"]
    assert [bar.get_height() for bar in axes.patches] == [1.0, 0.5]


def test_several_modes_are_bars_in_the_models_order() -> None:
    made = results([row(0, 0, 0.5), row(0, 0, -0.25, "mean")])
    axes = made.plot(ax=matplotlib.pyplot.subplots()[1])
    assert [bar.get_height() for bar in axes.patches] == [0.5, -0.25]
    assert axes.patches[0].get_facecolor() != axes.patches[1].get_facecolor()


def test_what_is_no_number() -> None:
    with pytest.raises(SparkablateError, match="top is a whole number from 1, not 'all'"):
        results([row(0, 0, 0.5)]).plot(top="all")  # type: ignore[arg-type]

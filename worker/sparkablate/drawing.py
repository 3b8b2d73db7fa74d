"""`Results.plot`, with matplotlib."""

from __future__ import annotations

from typing import Any

from sparkablate.errors import SparkablateError

#: Of what is distinguishable from 0, and of the rest: apart for the colour-blind, as in report.html.
MARKED, UNMARKED = "#0072b2", "#9a9a9a"


def draw(rows: Any, ranked: Any, ax: Any, top: int | None) -> Any:
    """``rows``: frames of the conditions, in the model's order and ranked."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise SparkablateError(
            "environment_missing", "plot() needs the Python package 'matplotlib': pip install matplotlib"
        ) from error
    if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 1):
        raise SparkablateError("usage", f"top is a whole number from 1, not {top!r:.80}")
    rows = rows if top is None else ranked
    rows = rows[rows["delta_nll"].notna()].head(top or len(rows))
    is_map = top is None and len(rows) > 0 and (rows["kind"].isin(["head", "kv_group"]) & _single(rows)).all()
    if is_map and rows["mode"].nunique() == 1:
        return _map(rows, ax or pyplot.subplots(layout="constrained")[1])
    return _bars(rows, ax or pyplot.subplots(layout="constrained")[1])


def _single(rows: Any) -> Any:
    return rows["heads"].str.fullmatch(r"\d+").fillna(False)


def _bars(rows: Any, ax: Any) -> Any:
    places = range(len(rows))
    effects = rows["delta_nll"].to_numpy()
    errors = [effects - rows["ci95_low"].to_numpy(), rows["ci95_high"].to_numpy() - effects]
    colours = [MARKED if mark else UNMARKED for mark in rows["distinguishable"].fillna(False)]
    ax.bar(places, effects, yerr=errors, color=colours, capsize=2, error_kw={"linewidth": 0.8})
    ax.set_xticks(list(places), rows["condition"].to_list(), rotation=90, fontsize="x-small")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_ylabel("Δ NLL (nats per token), 95 % interval")
    ax.set_title("blue: distinguishable from 0", fontsize="small")
    return ax


def _map(rows: Any, ax: Any) -> Any:
    frame = rows.assign(part=rows["heads"].astype("int64")).pivot(
        index="layer", columns="part", values="delta_nll"
    )
    most = float(frame.abs().max().max()) or 1.0
    image = ax.imshow(frame.astype("float64"), cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    ax.set_xticks(range(len(frame.columns)), frame.columns.to_list(), fontsize="x-small")
    ax.set_yticks(range(len(frame.index)), frame.index.to_list(), fontsize="x-small")
    ax.set_xlabel(str(rows["kind"].iloc[0]))
    ax.set_ylabel("layer")
    ax.figure.colorbar(image, ax=ax, label="Δ NLL (nats per token)")
    return ax

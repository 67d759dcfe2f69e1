"""The model card: what the ensemble is, what it was trained on, how good it was measured to be."""

from __future__ import annotations

from typing import Any

Scores = dict[str, float]
SIZES = ("3-30", "30-100", "100-500", "500-")

_TEXT = """# {name}

MS lesions from {sequences}. Research use only. Not a medical device.

## What it is

An ensemble of {folds} small nnU-Net-style networks (PlainConvUNet, 3.2 million parameters each),
trained by this project's own code on open data on two shared CPU cores: one common trunk of
{steps} steps, then {folds} forks of it that saw different data while the learning rate fell to 0.
{start}Five forks of one trunk are less different from each other than five networks trained
from scratch, so the ensemble's agreement says little about its uncertainty.

Input: {inputs} at 1 mm, each (x - mean) / SD over the brain mask, 0 outside. Output: mean of the
members' logits for background and lesion. Lesion where the probability exceeds {threshold}.
{channel_note}
## Data and licence

- open_ms_data, University of Ljubljana, CC-BY 4.0: Lesjak et al., Neuroinformatics 16 (2018)
  51-63 and 14 (2016) 403-420. Lesion shapes of 27 patients, raw scans of six studies of four
  patients as backgrounds, one case (26) with its consensus mask.
- ICBM 2009 tissue maps as distributed with nilearn.

Almost all training images are made: real lesion shapes painted into real scans of other patients
(58 %), or scans painted from tissue maps (42 %). The only real image with real lesions is case 26,
which folds 1 to {last} have seen and the trunk and fold 0 have not. `docs/training.md` tells how.

These weights may be used, changed and shared under CC-BY 4.0 with the citations above.

## How good it is

Dice is over voxels. A lesion (26-connected, 3 mm3 or more) is found, and a predicted one true, if
the other mask covers a tenth of it; recall, precision and F1 count lesions.

{summary}

{tables}

### Recall by lesion size (mm3)

{sizes}

By load, resolution and region, against the comparator case by case, and on raw 2D scans:
`docs/evaluation/segmentation.md`, with the commands.

## What it cannot be used for

- Diagnosis, treatment decisions, or any use on patients outside research.
- There is one real case with a reference mask that a network had not seen. The transplanted and
  synthetic cases are made with the generator that made the training data (other scan, other random
  numbers) and flatter the network; they compare settings, they do not prove accuracy.
- Lesions below 30 mm3 are often missed, and wide confluent lesions that are hardly brighter than
  grey matter are outlined in part only (the cases of 40 ml in `docs/evaluation/segmentation.md`).
  Other diseases with bright white matter (vascular disease, tumours, oedema) look like lesions to
  it. Spinal cord, children, post-operative brains and
  images with strong motion were not in the data.
- A site must measure it on its own scans before it relies on any number.
"""


def _row(name: str, scores: Scores) -> str:
    return (
        f"| {name} | {scores['reference_ml']:.1f} | {scores['predicted_ml']:.1f} | "
        f"{scores['dice']:.2f} | {scores['recall']:.2f} | {scores['precision']:.2f} | "
        f"{scores['f1']:.2f} |"
    )


def _mean_row(name: str, rows: list[Scores]) -> str:
    mean = {k: sum(r[k] for r in rows) / len(rows) for k in rows[0]}
    return _row(name, mean)


def _share_found(rows: list[Scores]) -> str:
    share = sum(r["predicted_ml"] for r in rows) / sum(r["reference_ml"] for r in rows)
    return f"{share:.0%}"


def _sizes(name: str, rows: list[Scores]) -> str:
    cells = []
    for size in SIZES:
        count = sum(r[f"count_{size}"] for r in rows)
        found = sum(
            r[f"recall_{size}"] * r[f"count_{size}"] for r in rows if r[f"count_{size}"] > 0
        )
        cells.append(f"{found / count:.2f} ({count:.0f})" if count else "-")
    return f"| {name} | " + " | ".join(cells) + " |"


def model_card(measures: dict[str, Any], name: str, folds: int, drop: str | None = None) -> str:
    """The text of MODEL_CARD.md.

    Parameters
    ----------
    measures
        The content of measures.json (`measure_all`).
    name
        The package's name.
    folds
        Number of members.
    drop
        The channel removed from the package, or None.
    """
    threshold = float(measures["threshold"])
    at = f"{threshold:g}"

    def pick(table: str, kind: str) -> dict[str, Scores]:
        return {n: v[at] for n, v in measures[table].items() if n.startswith(kind)}

    head = "| case | truth ml | found ml | Dice | recall | precision | F1 |\n" + "|---" * 7 + "|"
    lines = ["**Case 26, real, 3D FLAIR (networks that have not seen it)**", "", head]
    for table, title in (
        ("fold_0", "fold 0"),
        ("fold_0_without_t1", "fold 0, T1 missing"),
        ("trunk", "trunk"),
    ):
        lines += [_row(title, v) for v in pick(table, "real").values()]
    comparator = measures["classical"]
    lines += [
        _row("lesion growth (fitted to this case)", comparator[n])
        for n in comparator
        if "real" in n
    ]
    ensemble = pick("ensemble", "transplanted")
    lines += ["", "**Transplanted into patient 04's scan, which no network has seen**", "", head]
    lines += [_row(f"ensemble, case {i + 1}", v) for i, v in enumerate(ensemble.values())]
    lines.append(_mean_row("ensemble, mean", list(ensemble.values())))
    lines.append(
        _mean_row(
            "ensemble, T1 missing, mean", list(pick("ensemble_without_t1", "transplanted").values())
        )
    )
    lines.append(_mean_row("fold 0 alone, mean", list(pick("fold_0", "transplanted").values())))
    lines.append(
        _mean_row(
            "lesion growth, mean", [comparator[n] for n in comparator if n.startswith("transp")]
        )
    )
    unseen = next(iter(pick("fold_0", "real").values()))
    fitted = next(v for n, v in comparator.items() if n.startswith("real"))
    others = [v for n, v in comparator.items() if n.startswith("transplanted")]

    def mean_dice(rows: list[Scores]) -> float:
        return sum(r["dice"] for r in rows) / len(rows)

    summary = (
        f"In short: on the one real case, fold 0, which had not seen it, reaches Dice\n"
        f"{unseen['dice']:.2f} and lesion F1 {unseen['f1']:.2f}. A lesion-growth rule without a "
        f"network, its numbers fitted to this\nvery case, reaches {fitted['dice']:.2f} and "
        f"{fitted['f1']:.2f} there, and "
        f"{mean_dice(others):.2f} (Dice) on the transplanted cases, where the\nensemble reaches "
        f"{mean_dice(list(ensemble.values())):.2f}. The volume found is "
        f"{_share_found([unseen])} of the true one on the real\ncase and "
        f"{_share_found(list(ensemble.values()))} on the transplanted ones."
    )
    synthetic = pick("ensemble", "synthetic")
    lines += ["", "**Synthetic, unseen**", "", head]
    lines += [_row(f"ensemble, case {i + 1}", v) for i, v in enumerate(synthetic.values())]
    lines.append(_mean_row("ensemble, mean", list(synthetic.values())))
    sizes = ["| set | " + " | ".join(SIZES) + " |", "|---|---|---|---|---|"]
    sizes.append(_sizes("case 26, fold 0", list(pick("fold_0", "real").values())))
    sizes.append(_sizes("transplanted, ensemble", list(ensemble.values())))
    sizes.append(_sizes("synthetic, ensemble", list(synthetic.values())))
    roles = [r for r in ("FLAIR", "T2", "T1") if drop is None or r.lower() != drop]
    note = "In 40 % of the training patches T1 was missing (all 0).\n"
    if drop is not None:
        gone = drop.upper()
        note = (
            f"\nThe same networks as the package with {gone}, the {gone} part of each first\n"
            f"convolution removed: exactly equal to an all-zero {gone} channel, which 40 % of the\n"
            "training patches had.\n"
        )
    return _TEXT.format(
        name=name,
        sequences=", ".join(roles[:-1]) + " and " + roles[-1],
        inputs=", ".join(roles),
        folds=folds,
        last=folds - 1,
        steps=measures["steps"],
        start=f"The trunk began with {measures['start']}.\n" if measures.get("start") else "",
        threshold=at,
        channel_note=note,
        summary=summary,
        tables="\n".join(lines),
        sizes="\n".join(sizes),
    )

"""The scores as text for people."""

import textwrap
from collections.abc import Mapping
from typing import Any

from boceto.console import table

WIDTH = 100
CONFUSIONS = 10
IN_TABLES = {
    "drawings", "of", "accuracy", "top_5", "confusion",
    "distance", "mean_average_precision", "precision_at_1", "precision_at_5", "precision_at_10",
}  # fmt: skip
RANKINGS = {"l2": "L2", "l2_normalised": "L2, normalised", "cosine": "cosine"}


def _percent(score: Mapping[str, Any] | None) -> str:
    if score is None or score["value"] is None:
        return "-"
    return f"{score['value']:.2%} [{score['low']:.2%}, {score['high']:.2%}]".replace("%", "")


def _short(score: Mapping[str, Any] | None) -> str:
    return "-" if score is None or score["value"] is None else f"{100 * score['value']:.1f}"


def summary(scores: Mapping[str, Any]) -> str:
    """The tables over all classes; a 95 % interval stands behind each score."""
    artefact, data = scores["artefact"], scores["data"]
    flip = scores["settings"].get("flip", False)
    other = "" if scores["trained_with_this_data"] else "  NOT the data set that the net was trained with"
    splits = [
        [name, str(split["drawings"]), _percent(split["accuracy"]), _percent(split["top_5"])]
        for name, split in scores["splits"].items()
    ]
    rows = [
        [RANKINGS.get(name, name), _percent(ranking["mean_average_precision"])]
        + [_percent(ranking[f"precision_at_{k}"]) for k in (1, 5, 10)]
        for name, ranking in scores["retrieval"]["rankings"].items()
    ]
    lines = [
        f"{artefact['net']}, {artefact['parameters']:,} parameters, step {artefact['step']}",
        f"data set {data['digest']}, {len(scores['classes'])} classes{other}",
        *(["Logits and embedding are means over each drawing and its mirror image."] if flip else []),
        "In per cent, with 95 % intervals.",
        "",
        table(["split", "drawings", "accuracy", "top 5"], splits),
    ]
    if rows:
        lines += ["", table([f"retrieval in {scores['retrieval']['split']} by", "mAP", "P@1", "P@5", "P@10"], rows)]
    alone = scores["retrieval"]["classes_without_query"]
    if alone:
        lines.append(f"No query, for want of a second drawing: {', '.join(alone)}")
    return "\n".join(lines)


def full(scores: Mapping[str, Any]) -> str:
    """The summary, a table by class, the most frequent mistakes, the other scores, and the definitions."""
    definitions = [textwrap.fill(f"{name}: {text}", WIDTH) for name, text in scores["definitions"].items()]
    return "\n\n".join([summary(scores), _by_class(scores), _mistakes(scores), *_others(scores), *definitions]) + "\n"


def _others(scores: Mapping[str, Any]) -> list[str]:
    """A table of the scores that no other table shows, if there are any."""
    places = scores["splits"] | scores["retrieval"]["rankings"]
    rows = [
        [name, RANKINGS.get(place, place), _plain(score)]
        for place, found in places.items()
        for name, score in found.items()
        if name not in IN_TABLES
    ]
    return [table(["other scores", "of", "value"], rows)] if rows else []


def _plain(score: Any) -> str:
    if isinstance(score, Mapping) and "value" in score:
        interval = [score.get("low"), score.get("high")]
        return _plain(score["value"]) + ("" if None in interval else f" [{interval[0]:.4g}, {interval[1]:.4g}]")
    if score is None:
        return "-"
    return f"{score:.4g}" if isinstance(score, int | float) else "in scores.json"


def _by_class(scores: Mapping[str, Any]) -> str:
    """A row a class, the worst first: by mAP, or without one by the first split's accuracy."""
    splits, ranking = scores["splits"], scores["retrieval"]["rankings"].get("l2")
    first = next(iter(splits.values()))
    columns = {f"{name} acc.": split["accuracy"] for name, split in splits.items()} | {"top 5": first["top_5"]}
    if ranking:
        columns |= {"mAP": ranking["mean_average_precision"], "P@10": ranking["precision_at_10"]}
    values = [entry["value"] for entry in columns.get("mAP", first["accuracy"])["per_class"]]
    order = sorted(range(len(values)), key=lambda label: (values[label] is None, values[label], label))
    rows = [
        [scores["classes"][label]]
        + [(_percent if name == "mAP" else _short)(entry["per_class"][label]) for name, entry in columns.items()]
        for label in order
    ]
    return table(["class", *columns], rows)


def _mistakes(scores: Mapping[str, Any]) -> str:
    """The pairs of classes that are mistaken most often in the first split, which is test where test is scored."""
    classes = scores["classes"]
    split, first = next(iter(scores["splits"].items()))
    matrix = first["confusion"]
    pairs = [
        (count, true, answer)
        for true, row in enumerate(matrix)
        for answer, count in enumerate(row)
        if count and true != answer
    ]
    worst = sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:CONFUSIONS]
    if not worst:
        return f"No {split} drawing was taken for another class."
    rows = [[classes[true], classes[answer], f"{count} of {sum(matrix[true])}"] for count, true, answer in worst]
    return table(["mistaken", "for", "drawings"], rows)

"""Whether the data set may be made: too many bad drawings, or too few good ones, are told with what to do."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from beam_pipelines.settings import Settings
from boceto import storage

REFUSED = "refused.jsonl"
Report = Mapping[str, Any]


def total(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    """The sum of counts by name."""
    found: Counter[str] = Counter()
    for each in counts:
        found.update(each)
    return found


def problem_of(reads: Sequence[Report], counts: Sequence[Report], settings: Settings) -> str:
    """Returns why the data set must not be made, or "".

    reads: what `Read` reports of each part. counts: what `Deal` reports of each class.
    """
    drawings = sum(read["drawings"] for read in reads)
    refused = total(read["refused"] for read in reads)
    bad = refused.total()
    few = _too_few(reads, counts, settings)
    if bad <= settings.max_refused * drawings:
        return few
    reason = max(sorted(refused), key=lambda name: refused[name])
    worst = max(reads, key=lambda read: (read["refused"].get(reason, 0), read["name"]))
    example = worst["first"][reason]
    where = example["file"] if example["file"] != worst["name"] else f"{worst['name']}, line {example['line']}"
    share = min(1.0, math.ceil(bad / drawings * 1000) / 1000)
    advice = f"; without them, {few}" if few else f", or take the others with --max-refused {share}"
    return (
        f"{bad} of {drawings} drawings are bad, more than prepare.max_refused = {settings.max_refused} allows "
        f"({_listed(refused)}): in {where}, {reason}: {example['what']} "
        f"(all are in {storage.join(settings.output, REFUSED)}); mend the input{advice}"
    )


def _too_few(reads: Sequence[Report], counts: Sequence[Report], settings: Settings) -> str:
    """Says of which class there are too few drawings, if of any."""
    scored = settings.test_per_class + settings.validation_per_class
    short = sorted((count["available"], count["category"]) for count in counts if count["available"] < count["wanted"])
    # With --allow-fewer, a class still needs a drawing to train on.
    if not short or (settings.allow_fewer and short[0][0] > scored):
        return ""
    available, category = short[0]
    count = next(count for count in counts if count["category"] == category)
    wanted, kind = count["wanted"], "training" if count["divided"] else "different"
    others = f" (and {len(short) - 1} more categories are short)" if len(short) > 1 else ""
    same = ", ".join(f"{number} more are the same by {why}" for why, number in count["duplicates"].items() if number)
    left_out = total(read[kind] for read in reads if read["category"] == category for kind in ("filtered", "refused"))
    others += f", and left out are {_listed(left_out)}" if left_out else ""
    message = (
        f"category {category!r} has {available} {kind} drawings{same and f' ({same})'}, {wanted} are wanted{others}"
    )
    if count["more"]:
        return (
            f"{message}: too many of its drawings are the same, or are in other categories too; "
            "leave one of these out with --classes, or take fewer"
        )
    if available > scored:
        return f"{message}; use --train-per-class {available - scored}, or --allow-fewer to take what there is"
    if not available:
        nothing = message if count["divided"] else f"category {category!r} has no usable drawing{others}"
        return f"{nothing}; mend its files, or leave it out with --classes"
    return f"{message}; leave it out with --classes, or lower --test-per-class and --validation-per-class"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))

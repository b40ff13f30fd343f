"""The outcome of a search: which combination of options is the best, its score on fresh samples, and what ties."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from denoiselab.cleaning import aligned
from denoiselab.evaluation.contracts import INFINITY
from denoiselab.evaluation.records import Record, evaluations, loss, lower_is_better
from denoiselab.evaluation.report.tables import digits
from denoiselab.evaluation.verdicts.frontiers import Kept, comparison
from denoiselab.evaluation.verdicts.winner import Confirmed, confirmed, optimism_of_ties


class Scouted(NamedTuple):
    """A combination of options.

    Attributes:
        options: Those that are searched.
        record: Of its cell.
        budget: Combinations of one budget compete; None where all do.
    """

    options: Mapping[str, Any]
    record: Record
    budget: int | None = None


class Choice(NamedTuple):
    """What is chosen of one budget, as places in the list of all combinations.

    Attributes:
        best: The best one.
        ties: Those that are not surely worse, the best first.
        among: All that have a score.
        optimism: How much better the best of these ties would look if all of them were equal.
    """

    best: int
    ties: list[int]
    among: list[int]
    optimism: float


def choices(scouted: Sequence[Scouted], kept: Kept, level: float) -> list[Choice]:
    """The choice of each budget; none of one whose combinations all failed.

    Args:
        scouted: All combinations, on the same noise.
        kept: Influences of a record.
        level: Probability of any wrong verdict, over all budgets.
    """
    known = [i for i, one in enumerate(scouted) if one.record["score"] is not None]
    if not known:
        return []
    both = comparison([scouted[i].record for i in known], kept, level=level)
    out = []
    for budget in dict.fromkeys(scouted[i].budget for i in known):
        among = [place for place, i in enumerate(known) if scouted[i].budget == budget]
        best, ties, _ = both.best(among)
        tied = [best, *ties]
        optimism = optimism_of_ties(both.covariance[tied][:, tied])
        out.append(Choice(known[best], [known[i] for i in ties], [known[i] for i in among], optimism))
    return out


class Rival(NamedTuple):
    """A combination against the chosen one of its budget, both on the same fresh samples.

    Attributes:
        place: In the list of all combinations.
        best: Place of the chosen one.
        difference: Its score less that of the chosen one.
        half_width: Of the interval of the difference; None without a standard error.
        verdict: On it: "better", "worse", "undecided" or "tie" (the same samples).
        at: Whether values at "infinity" or at "n" are compared.
    """

    place: int
    best: int
    difference: float
    half_width: float | None
    verdict: str
    at: str


def rivals(chosen: Sequence[Choice], fresh: Mapping[int, Record], kept: Kept, level: float) -> list[Rival]:
    """The comparisons with the chosen ones of all others that were scored on fresh samples.

    Args:
        chosen: One choice a budget.
        fresh: Records on fresh samples, by place.
        kept: Influences of a record.
        level: Probability of any wrong verdict, over all budgets.
    """
    known = {place for place, record in fresh.items() if record["score"] is not None}
    out = []
    for choice in chosen:
        places = [place for place in (choice.best, *choice.ties) if place in known]
        if choice.best not in known or len(places) < 2:
            continue
        both = comparison([fresh[place] for place in places], kept, level=level / len(chosen))
        for j, place in enumerate(places[1:], start=1):
            width = both.half_width(j, 0)
            out.append(
                Rival(
                    place, choice.best, float(both.difference[j, 0]), width if math.isfinite(width) else None,
                    both.verdict(j, 0), both.at,
                )
            )  # fmt: skip
    return out


class Outcome(NamedTuple):
    """Of a search.

    Attributes:
        scouted: All combinations.
        chosen: One choice a budget.
        fresh: Records on fresh samples of some of them, by place.
        rivals: Comparisons on fresh samples.
    """

    scouted: Sequence[Scouted]
    chosen: Sequence[Choice]
    fresh: Mapping[int, Record]
    rivals: Sequence[Rival] = ()

    def confirmed(self, place: int) -> Confirmed | None:
        """Both scores of a combination; None if it has none on fresh samples."""
        old, new = self.scouted[place].record, self.fresh.get(place)
        if new is None or new["score"] is None:
            return None
        before, after = ((one["score"], one["standard_error"]) for one in (old, new))
        return confirmed(before, after, lower_is_better=lower_is_better(old))

    def verdict(self, place: int) -> str:
        """On a combination, against those of its budget."""
        if self.scouted[place].record["score"] is None:
            return "failed"
        if any(place == choice.best for choice in self.chosen):
            return "chosen"
        return "tie" if any(place in choice.ties for choice in self.chosen) else "surely worse"

    def plain(self) -> dict[str, Any]:
        """For a file."""
        first = self.scouted[0].record
        facts = {key: first[key] for key in ("metric", "n", "seed", "images_seen")}
        chosen = [
            {"budget": self.scouted[one.best].budget, "combination": one.best, "optimism_if_tied": one.optimism}
            for one in self.chosen
        ]
        return {
            **facts,
            "chosen": chosen,
            "fresh_differences": [one._asdict() for one in self.rivals],
            "combinations": [self._plain(i) for i in range(len(self.scouted))],
        }

    def table(self) -> str:
        """For the screen: the best first, budget by budget."""
        options = [*self.scouted[0].options]
        metric = self.scouted[0].record["metric"]
        others = self._others(metric)
        rows = [
            [
                *options,
                "NFE",
                "evaluations",
                metric,
                "on fresh samples",
                "difference",
                *(f"fresh {name}" for name in others),
                "",
            ]
        ]
        for place in sorted(range(len(self.scouted)), key=self._order):
            one, both = self.scouted[place], self.confirmed(place)
            rows.append(
                [
                    *(word(value) for value in one.options.values()),
                    f"{one.record['nfe']:g}",
                    "" if (spent := _spent(one.record)) is None else f"{spent:g}",
                    _number(one.record["score"], one.record["standard_error"]),
                    _number(both.fresh, both.standard_error) if both else "",
                    _number(both.optimism, both.optimism_error, "+") if both else "",
                    *(self._fresh(place, name) for name in others),
                    self.verdict(place),
                ]
            )
        return aligned(rows, left=len(options))

    def sentences(self) -> list[str]:
        """What was chosen of each budget, what is known of it, and how others compare with it on fresh samples."""
        return [
            text
            for choice in self.chosen
            for text in (self._sentence(choice), *(self._against(o) for o in self.rivals if o.best == choice.best))
        ]

    def _others(self, primary: str) -> list[str]:
        """The further metrics on fresh samples, at their number of samples."""
        names = dict.fromkeys(name for record in self.fresh.values() for name in record["scores"] or ())
        return [name for name in names if name != primary and not name.endswith(INFINITY)]

    def _fresh(self, place: int, metric: str) -> str:
        """A further metric of a combination on fresh samples, for the screen."""
        score = ((self.fresh[place]["scores"] if place in self.fresh else None) or {}).get(metric, {})
        return _number(score.get("value"), score.get("standard_error"))

    def _order(self, place: int) -> tuple[int, bool, float]:
        record = self.scouted[place].record
        failed = record["score"] is None
        return self.scouted[place].budget or 0, failed, 0.0 if failed else loss(record)

    def _plain(self, place: int) -> dict[str, Any]:
        one, both = self.scouted[place], self.confirmed(place)
        return {
            "options": dict(one.options),
            **{key: one.record[key] for key in ("sampler", "weights", "guidance", "nfe", "steps", "error", "cell")},
            "evaluations": _spent(one.record),
            **({"guider": one.record["guider"]} if one.record.get("guider") else {}),
            "score": one.record["score"],
            "standard_error": one.record["standard_error"],
            "scores": one.record["scores"],
            "fresh_cell": self.fresh[place]["cell"] if place in self.fresh else None,
            "fresh_score": both and both.fresh,
            "fresh_standard_error": both and both.standard_error,
            "fresh_scores": self.fresh[place]["scores"] if place in self.fresh else None,
            "optimism": both and both.optimism,
            "optimism_standard_error": both and both.optimism_error,
            "verdict": self.verdict(place),
        }

    def _sentence(self, choice: Choice) -> str:
        best, both = self.scouted[choice.best], self.confirmed(choice.best)
        options = " ".join(f"{name}={word(value)}" for name, value in best.options.items())
        fresh = f"{_number(both.fresh, both.standard_error)} on {best.record['n']} fresh samples" if both else "failed"
        text = f"chosen: {options}: {fresh}; {digits(best.record['score'])} where it was best of {len(choice.among)}"
        if choice.ties:
            text += f"; {len(choice.ties)} more may be as good: the best of equals would look better by "
            text += f"{digits(choice.optimism)} in the mean"
        if any(loss(self.scouted[place].record) < loss(best.record) for place in choice.among):
            text += "; chosen by values at infinitely many samples, in which it is the best"
        return f"{text}."

    def _against(self, one: Rival) -> str:
        own, best = (self.scouted[place].options for place in (one.place, one.best))
        options = " ".join(f"{name}={word(value)}" for name, value in own.items() if value != best[name])
        if one.verdict == "tie":
            return f"on fresh samples {options} makes the same samples as the chosen one."
        at = " at infinitely many samples" if one.at == "infinity" else ""
        size, sure = _number(abs(one.difference), one.half_width), "" if one.verdict == "undecided" else "surely "
        which = "lower" if one.difference < 0 else "higher"
        return f"on fresh samples {options} is {which} by {size}{at} than the chosen one: {sure}{one.verdict}."


def _spent(record: Record) -> float | None:
    """Network evaluations a sample, of the model and of a guide; None of a cell that failed."""
    return None if record["network_evaluations"] is None else evaluations(record)


def word(value: Any) -> str:
    """A value of an option, short, as it is given."""
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{word(one)}' for key, one in value.items())}}}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: float | None, error: float | None, sign: str = "") -> str:
    if value is None:
        return ""
    text = f"{sign if value > 0 else ''}{digits(value)}"
    return text if error is None else f"{text} +- {digits(error)}"

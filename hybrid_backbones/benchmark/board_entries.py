"""Entries of a leaderboard: the runs of a config with all seeds, and what they have in common."""

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from .reproduce import METRICS
from .runs import Run
from .zoo import GROUPS

# what each metric is called, and its factor to percent; the first that a result has is compared
FIGURES = METRICS | {"coco/bbox_mAP_50": ("box AP50", 100), "coco/segm_mAP_50": ("mask AP50", 100)}
# titles of configs that zoo.GROUPS does not have
OTHERS = dict(mmdet="Detection", mmseg="Segmentation", mmpretrain="Classification")


class Entry(NamedTuple):
    """All runs of a config: one line of the page."""

    runs: list[Run]

    @property
    def first(self) -> Run:
        """Run of the first seed."""
        return self.runs[0]

    @property
    def results(self) -> list[dict]:
        """Results of the runs that have finished."""
        return [result for run in self.runs if (result := run.result) is not None]

    def mean(self, figure: str) -> float | None:
        """Return the mean of a measured figure over the seeds, None if it was not measured."""
        values = [one[figure] for one in self.results if one.get(figure) is not None]
        return fmean(values) if values else None

    def scores(self) -> dict[str, list[float]]:
        """Return the metrics in percent, one value for each seed that has it, by their labels."""
        metrics = [one["metrics"] for one in self.results]
        found = {
            label: [one[key] * by for one in metrics if key in one]
            for key, (label, by) in FIGURES.items()
        }
        return {label: values for label, values in found.items() if values}

    def in_words(self) -> str:
        """Say what became of the runs: scores, who has none, who failed, how many are missing."""
        texts = [f"{label} {with_deviation(values)}" for label, values in self.scores().items()]
        states = [
            # as of a detector that detects nothing
            f"no metric with seed {run.seed}"
            for run in self.runs
            if (result := run.result) is not None and not FIGURES.keys() & result["metrics"]
        ]
        failed = [(run.seed, error) for run in self.runs if (error := run.error) is not None]
        states += [f"failed with seed {seed}: {error}" for seed, error in failed]
        missing = len(self.runs) - len(self.results) - len(failed)
        if missing:
            states.append(f"{missing} of {len(self.runs)} not finished")
        return "; ".join([", ".join(texts)] * bool(texts) + states)


def with_deviation(values: Sequence[float]) -> str:
    """Return the mean, and of several values the standard deviation of a sample."""
    mean = f"{fmean(values):.1f}"
    return f"{mean} ± {stdev(values):.1f}" if len(values) > 1 else mean


def group(runs: Iterable[Run]) -> dict[str, list[Entry]]:
    """Collect the runs of each config, by the title of its method, the best config first."""
    configs: dict[tuple, list[Run]] = {}
    for run in runs:
        configs.setdefault((run.name, run.digest), []).append(run)
    groups: dict[str, list[Entry]] = {}
    for members in configs.values():
        groups.setdefault(_title(members[0]), []).append(Entry(sorted(members, key=_seed)))
    for entries in groups.values():
        entries.sort(key=_rank)
    return groups


def method_of(name: str) -> str | None:
    """Return the key of `zoo.GROUPS` that a config belongs to, None for one of one's own."""
    prefixes = [prefix for prefix in GROUPS if name.startswith(f"{prefix}_")]
    return max(prefixes, key=len, default=None)


def _title(run: Run) -> str:
    if run.scope is None:
        return "Configs that cannot be run"
    method = method_of(run.name)
    title = GROUPS[method] if method else OTHERS[run.scope]
    return f"{title.partition(' on ')[0]} on the mini set" if run.mini else title


def _seed(run: Run) -> int:
    return run.seed


def _rank(entry: Entry) -> float:
    scores = entry.scores()
    return -fmean(next(iter(scores.values()))) if scores else float("inf")

"""Loss and metric curves as an image in the work dir, redrawn after each validation."""

from numbers import Real
from pathlib import Path

from matplotlib import color_sequences
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

# maximum number of points of a loss curve; more are not visible
MAX_POINTS = 500
COLORS = color_sequences["tab20"] + color_sequences["tab20b"]


@HOOKS.register_module()
class CurvesHook(Hook):
    """Hook that draws the losses and validation metrics over the iterations in ``curves.png``.

    The history is stored in mmengine's message hub and thus in every checkpoint: a resumed training
    draws all of it.
    """

    # runs after the hooks that record the metrics
    priority = "VERY_LOW"

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        """Record the metrics of this validation, and redraw the curves."""
        history = runner.message_hub.runtime_info.setdefault("curves", {})
        for name, value in (metrics or {}).items():
            # COCO reports -1 for a metric without objects, such as large ones in small images
            if isinstance(value, Real) and float(value) >= 0:
                history.setdefault(name, []).append((runner.iter, float(value)))
        self._draw(runner, history)

    @master_only
    def _draw(self, runner, history: dict) -> None:
        losses = {
            name.removeprefix("train/"): buffer.data[0]
            for name, buffer in runner.message_hub.log_scalars.items()
            if name.startswith("train/") and "loss" in name
        }
        figure = Figure(figsize=(14, 4.5), layout="constrained")
        left, right = figure.subplots(1, 2, sharex=True)
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (left, right):
            axes.set_prop_cycle(color=COLORS)
        for name, values in sorted(losses.items()):
            _plot_smooth(left, values, runner.iter, name)
        left.set(xlabel="iteration", ylabel="loss (mean of neighbours)", yscale="log")
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_formatter(NullFormatter())
        for name, points in sorted(history.items()):
            right.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        right.set(xlabel="iteration", ylabel="validation metric")
        for axes in (left, right):
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(Path(runner.work_dir) / "curves.png", dpi=110)


def _plot_smooth(axes, values, last_iter: int, name: str) -> None:
    """Plot at most MAX_POINTS points, each the mean of equally many neighbouring values."""
    width = -(-len(values) // MAX_POINTS)
    usable = len(values) - len(values) % width
    if not usable:
        return
    means = values[:usable].reshape(-1, width).mean(1)
    first = last_iter - len(values)
    axes.plot([first + width * (i + 1) for i in range(len(means))], means, label=name, lw=1)

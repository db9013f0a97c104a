"""Loss and metric curves as a picture in the work dir, drawn anew after each validation."""

from numbers import Real
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

# points of a loss curve: more cannot be seen
MAX_POINTS = 500


@HOOKS.register_module()
class CurvesHook(Hook):
    """Draw ``curves.png``: the losses over the iterations, and each validation metric.

    The history travels in mmengine's message hub and so in every checkpoint: a resumed training
    draws the whole of it.
    """

    # after the metrics have been recorded
    priority = "VERY_LOW"

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        """Record the metrics of this validation, and draw."""
        history = runner.message_hub.runtime_info.setdefault("curves", {})
        for name, value in (metrics or {}).items():
            # COCO's -1 stands for a metric without any object, as large ones in small pictures
            if isinstance(value, Real) and value >= 0:
                history.setdefault(name, []).append((runner.iter, float(value)))
        self._draw(runner, history)

    @master_only
    def _draw(self, runner, history: dict) -> None:
        losses = {
            name.removeprefix("train/"): buffer.data[0]
            for name, buffer in runner.message_hub.log_scalars.items()
            if name.startswith("train/") and "loss" in name
        }
        figure = Figure(figsize=(12, 4.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        right.set_prop_cycle(color=colormaps["tab20"].colors)
        for name, values in sorted(losses.items()):
            _plot_smooth(left, values, runner.iter, name)
        left.set(xlabel="iteration", ylabel="loss (mean of neighbours)", yscale="log")
        for name, points in sorted(history.items()):
            right.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        right.set(xlabel="iteration", ylabel="validation metric")
        for axes in (left, right):
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend(fontsize=7)
        figure.savefig(Path(runner.work_dir) / "curves.png", dpi=110)


def _plot_smooth(axes, values, last_iter: int, name: str) -> None:
    """Plot means of as many neighbouring values as leave MAX_POINTS points."""
    width = -(-len(values) // MAX_POINTS)
    usable = len(values) - len(values) % width
    if not usable:
        return
    means = values[:usable].reshape(-1, width).mean(1)
    first = last_iter - len(values)
    axes.plot([first + width * (i + 1) for i in range(len(means))], means, label=name, lw=1)

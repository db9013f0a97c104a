"""Loss and metric curves as an image in the work dir, redrawn after each validation."""

from numbers import Real
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


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
        # who uses a backbone alone need not wait a second for Matplotlib
        from .curve_figure import draw_curves

        losses = {
            name.removeprefix("train/"): buffer.data[0]
            for name, buffer in runner.message_hub.log_scalars.items()
            if name.startswith("train/") and "loss" in name
        }
        path = Path(runner.work_dir) / "curves.png"
        draw_curves(losses, history, runner.iter, path)

"""One subject with all that a view of it needs: records, sizes of maps, layers, heat maps."""

from collections.abc import Iterable

from torch import Tensor, nn

from .capture import Call, run, watching
from .features import stage_paths
from .look import attending_modules
from .panels import Heat
from .records import record
from .subject import Subject


class Scene:
    """A subject, the sizes of the maps in its network, and what its operators decide.

    Args:
        subject: image and network.
        layer: path of the module to look at; None chooses.
    """

    def __init__(self, subject: Subject, layer: str | None = None):
        self.subject, self.layer = subject, layer
        self.model, self.inputs = subject.model, subject.inputs
        self.records = record(self.model, subject.arguments)
        self.sizes: dict[str, tuple[int, int]] = {}
        watched = {path: module for path, (module, _) in attending_modules(self.model).items()}
        watched |= {path: self.model.get_submodule(path) for path in self.records}

        def see(path: str, call: Call) -> None:
            height, width = getattr(call.output, "map", call.output).shape[2:]
            self.sizes[path] = height, width

        with watching(watched, see):
            run(self.model, subject.arguments)

    def choose(self, *kinds: type[nn.Module]) -> list[str]:
        """Return the layers of these types to look at: `layer`, or the last one of each stage."""
        paths = [p for p in self.sizes if isinstance(self.model.get_submodule(p), kinds)]
        return self.chosen(paths)

    def chosen(self, paths: Iterable[str]) -> list[str]:
        """Return those of the paths that the user names, or the last one of each stage."""
        if self.layer is not None:
            return [path for path in paths if path == self.layer]
        last: dict[str, str] = {}
        for path in paths:
            last[next((s for s in stage_paths(self.model) if path.startswith(s)), path)] = path
        return list(last.values())

    def stride(self, path: str) -> tuple[float, float]:
        """Return the rows and columns of pixels for each position of a module's map."""
        height, width = self.sizes[path]
        return self.inputs.shape[2] / height, self.inputs.shape[3] / width

    def beside(self, weights: Tensor, stride: tuple[float, float]) -> str:
        """Say which share of weights ``(h, w)`` lies on padding beside the network's input."""
        rows, columns = (round(s / d) for s, d in zip(self.inputs.shape[2:], stride, strict=True))
        share = 1 - float(weights[:rows, :columns].sum() / weights.sum())
        return f", {100 * share:.0f} % on padding" if weights.min() >= 0 and share > 0.005 else ""

    def heat(
        self,
        path: str,
        values: Tensor,
        title: str,
        label: str,
        *,
        stride: tuple[float, float] | None = None,
        **settings,
    ) -> Heat:
        """Draw values ``(h, w)`` over the image; settings as for :class:`Heat`."""
        down, right = stride or self.stride(path)
        extent = values.shape[0] * down, values.shape[1] * right
        heat = values.detach().float().cpu().numpy()
        return Heat(title, self.subject.pixels, heat, label, extent, **settings)

    @property
    def mark(self) -> tuple[float, float]:
        """The position, at the middle of its pixel."""
        y, x = self.subject.position
        return y + 0.5, x + 0.5


def short(path: str) -> str:
    """Return the path of a module without the backbone's."""
    return path.removeprefix("backbone.")

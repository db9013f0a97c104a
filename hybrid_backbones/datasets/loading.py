"""Loading that names the file when something is wrong with it."""

from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadWholeImage(LoadImageFromFile):
    """Load an image as mmcv does, with Pillow, which refuses truncated files.

    OpenCV fills what a truncated file lacks with grey, and trains on it.

    Raises:
        ValueError: names the file that is missing, truncated or not an image.
    """

    def __init__(self, **kwargs):
        super().__init__(imdecode_backend="pillow", **kwargs)

    def transform(self, results: dict) -> dict:
        """Add ``img``, ``img_shape`` and ``ori_shape``."""
        path = results["img_path"]
        try:
            return super().transform(results)
        except FileNotFoundError as error:
            raise ValueError(
                f"image {path} is missing: complete the data set or remove it from the annotations"
            ) from error
        except (OSError, AssertionError, SyntaxError) as error:
            raise ValueError(
                f"image {path} is truncated or not an image ({error}): fetch it again or remove it "
                "from the annotations"
            ) from error

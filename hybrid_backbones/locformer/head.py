"""The head of LocFormer: boxes of objects, and how much each is what the sketch shows.

Tripathi et al., "Query-guided Attention in Vision Transformers for Localizing Objects Using a
Single Sketch", WACV 2024, https://arxiv.org/abs/2303.08784. Matching, losses and boxes are those
of mmdet's Deformable DETR; scores are of pairs of an object and the sketch, which in the later
levels refine each other.
"""

import torch
from mmdet.models.dense_heads import DeformableDETRHead
from mmdet.models.layers import inverse_sigmoid
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..layers import to_tokens
from .fusion import CrossFusion, grid_positions


def at_least_float32(x: Tensor) -> Tensor:
    """Leave half precision, which would round a picture to some hundred pixels."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@MODELS.register_module()
class SketchDETRHead(DeformableDETRHead):
    """Predict boxes and scores at each level: of the backbone's tokens, then of decoder layers.

    At level l, ``score = cls_branches[l]([sketch_branches[l](pooled sketch), objects])``. From
    level `first_refined` on, objects attend to the sketch's tokens and these to the objects, which
    hands refined tokens on to the next level; boxes are of the objects as they were before.

    Args:
        num_levels: of predictions, one more than the decoder has layers.
        first_refined: the first level at which objects and sketch refine each other.
        released: do as the released code does rather than as the paper says: at the refined levels,
            score with the sketch as it was pooled before any refinement; and predict two logits,
            the first of which is never a target. The other way is what we recommend.
        dropout: rate within the refinements.
        **kwargs: settings of mmdet's DeformableDETRHead.
    """

    def __init__(
        self,
        *,
        num_levels: int = 7,
        first_refined: int = 3,
        released: bool = False,
        dropout: float = 0.4,
        **kwargs,
    ):
        self.first_refined = first_refined
        self.released = released
        self.dropout = dropout
        super().__init__(num_classes=2 if released else 1, num_pred_layer=num_levels, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        dims, levels = self.embed_dims, range(self.num_pred_layer)
        self.cls_branches = nn.ModuleList(
            nn.Linear(2 * dims, self.cls_out_channels) for _ in levels
        )
        self.sketch_branches = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Linear(dims, dims)) for _ in levels
        )
        refined = [str(level) for level in levels[self.first_refined :]]
        for name in ("object_fusions", "sketch_fusions"):
            fusions = {level: CrossFusion(dims, dropout=self.dropout) for level in refined}
            setattr(self, name, nn.ModuleDict(fusions))

    def forward(
        self, hidden_states: list[Tensor], references: list[Tensor], places: Tensor, sketch: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict at each level.

        Args:
            hidden_states: the objects of each level, ``(B, N, C)``.
            references: boxes ``(B, N, 4)``, or centres ``(B, N, 2)``, to which those of each level
                are relative, from 0 to 1.
            places: positions of the objects, which broadcast to these.
            sketch: ``(B, C, H, W)``.

        Returns:
            logits ``(L, B, N, 1)``, first that of the sketched category, and boxes ``(L, B, N, 4)``
            as centre and size, from 0 to 1.
        """
        tokens = to_tokens(sketch)
        cells = grid_positions(*sketch.shape[2:], sketch.shape[1], sketch)
        pooled = tokens.amax(1)
        logits, boxes = [], []
        for level, (objects, reference) in enumerate(zip(hidden_states, references, strict=True)):
            boxes.append(self.boxes(level, objects, reference))
            if level >= self.first_refined:
                objects = self.object_fusions[str(level)](objects, places, tokens, cells)
                tokens = self.sketch_fusions[str(level)](tokens, cells, objects, places)
                pooled = pooled if self.released else tokens.amax(1)
            logits.append(self._logits(level, objects, pooled))
        return torch.stack(logits), torch.stack(boxes)

    def boxes(self, level: int, objects: Tensor, reference: Tensor) -> Tensor:
        """Predict the boxes of one level from objects and their references."""
        offsets = at_least_float32(self.reg_branches[level](objects))
        centres = inverse_sigmoid(reference)
        padding = (0, 4 - centres.shape[-1])
        return (offsets + nn.functional.pad(centres, padding)).sigmoid()

    def _logits(self, level: int, objects: Tensor, pooled: Tensor) -> Tensor:
        shown = self.sketch_branches[level](pooled)[:, None].expand_as(objects)
        logits = at_least_float32(self.cls_branches[level](torch.cat([shown, objects], 2)))
        # the released code has the target at index 1, datasets here at 0
        return logits.flip(-1)

    def loss(self, *features, data_samples: list) -> dict[str, Tensor]:
        """Match and compute the losses of all levels, given the arguments of :meth:`forward`."""
        instances = [sample.gt_instances for sample in data_samples]
        metas = [sample.metainfo for sample in data_samples]
        return self.loss_by_feat(*self(*features), None, None, instances, metas)

    def predict(self, *features, data_samples: list, rescale: bool = True) -> list[InstanceData]:
        """Return the objects of each image by descending score, those of the last level."""
        metas = [sample.metainfo for sample in data_samples]
        results = self.predict_by_feat(*self(*features), batch_img_metas=metas, rescale=rescale)
        # the released second logit competes for places, and does not count
        return [objects[objects.labels == 0] for objects in results]

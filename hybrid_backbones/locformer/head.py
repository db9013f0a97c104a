"""Head of LocFormer: boxes of objects, and the score with which each matches the sketch.

Matching, losses and boxes are those of mmdet's Deformable DETR; a score compares an object with the
sketch, after cross-attention between the two at the later levels (see `detector.py`).
"""

import torch
from mmdet.models.dense_heads import DeformableDETRHead
from mmdet.models.layers import inverse_sigmoid
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..layers import to_tokens
from .fusion import CrossFusion, map_positions


def at_least_float32(x: Tensor) -> Tensor:
    """Cast half precision, too coarse for positions in an image (bfloat16: 8 bits), to float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@MODELS.register_module()
class SketchDETRHead(DeformableDETRHead):
    """Head that predicts boxes and scores from the backbone's tokens and from each decoder layer.

    At level l, ``score = cls_branches[l]([sketch_branches[l](pooled sketch), objects])``, where the
    objects are the features of the object queries. From level `first_refined` on, cross-attention
    in both directions refines the objects and the tokens of the sketch first; the refined sketch
    tokens are passed to the next level. Boxes are predicted from the unrefined objects.

    Args:
        num_levels: number of prediction levels, one more than the decoder has layers.
        first_refined: index of the first level at which objects and sketch refine each other.
        released: whether to follow the released code rather than the paper: refined levels score
            with the sketch pooled before any refinement, and there are two logits, the first of
            which is never a target. False is recommended.
        dropout: dropout rate of the refinements.
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
        self,
        hidden_states: list[Tensor],
        references: list[Tensor],
        query_pos: Tensor,
        sketch: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Predict logits and boxes at all L levels.

        Args:
            hidden_states: object features of each level, ``(B, N, C)``.
            references: reference boxes ``(B, N, 4)`` or centres ``(B, N, 2)`` of each level, to
                which predictions are relative; from 0 to 1.
            query_pos: position embedding of the objects; must broadcast to these.
            sketch: sketch features, ``(B, C, H, W)``.

        Returns:
            logits ``(L, B, N, 1)``, or 2 channels with `released`, of which the first is that of
            the sketched category, and boxes ``(L, B, N, 4)`` as centre and size, from 0 to 1.
        """
        tokens = to_tokens(sketch)
        sketch_pos = map_positions(sketch)
        pooled = tokens.amax(1)
        logits, boxes = [], []
        for level, (objects, reference) in enumerate(zip(hidden_states, references, strict=True)):
            boxes.append(self.boxes(level, objects, reference))
            if level >= self.first_refined:
                objects = self.object_fusions[str(level)](objects, query_pos, tokens, sketch_pos)
                tokens = self.sketch_fusions[str(level)](tokens, sketch_pos, objects, query_pos)
                pooled = pooled if self.released else tokens.amax(1)
            logits.append(self._logits(level, objects, pooled))
        return torch.stack(logits), torch.stack(boxes)

    def boxes(self, level: int, objects: Tensor, reference: Tensor) -> Tensor:
        """Predict the boxes of one level as offsets of the objects from their references."""
        offsets = at_least_float32(self.reg_branches[level](objects))
        centres = inverse_sigmoid(reference)
        padding = (0, 4 - centres.shape[-1])
        return (offsets + nn.functional.pad(centres, padding)).sigmoid()

    def _logits(self, level: int, objects: Tensor, pooled: Tensor) -> Tensor:
        sketch = self.sketch_branches[level](pooled)[:, None].expand_as(objects)
        logits = at_least_float32(self.cls_branches[level](torch.cat([sketch, objects], 2)))
        # the target has index 1 in the released code, and label 0 in our datasets
        return logits.flip(-1)

    def loss(self, *features, data_samples: list) -> dict[str, Tensor]:
        """Match objects and compute the losses of all levels; arguments as for :meth:`forward`."""
        instances = [sample.gt_instances for sample in data_samples]
        metas = [sample.metainfo for sample in data_samples]
        return self.loss_by_feat(*self(*features), None, None, instances, metas)

    def predict(self, *features, data_samples: list, rescale: bool = True) -> list[InstanceData]:
        """Return the objects of each image from the last level, in descending order of score."""
        metas = [sample.metainfo for sample in data_samples]
        results = self.predict_by_feat(*self(*features), batch_img_metas=metas, rescale=rescale)
        # the extra logit of the released code takes part in the top-k selection only
        return [objects[objects.labels == 0] for objects in results]

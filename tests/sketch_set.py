"""A small set of images with sketches, which tell what they are."""

import json

from PIL import Image

from hybrid_backbones.locformer.data import SketchCocoDataset
from hybrid_backbones.training.seeding import SeededSampler

# in another order than the file's categories; the first and the last are unseen
NAMES = ("zebra", "apple", "car", "dog", "bus")
IDS = dict(car=3, bus=6, dog=18, zebra=24, apple=53, person=1)
# categories of the objects of each image
SCENES = {
    11: ["car", "car", "dog", "person"],
    12: ["zebra"],
    13: ["person"],
    14: ["apple", "bus", "dog"],
    15: ["zebra", "bus"],
    16: [],
    17: ["car", "zebra"],
}
NUM_DRAWINGS = 30
# 64 × 48 pixels
SIDES = (64, 48)


def write_set(root, scenes=SCENES, crowds=()):
    """Write images, annotations and drawings; a drawing tells its category and number."""
    (root / "images").mkdir(parents=True)
    (root / "ndjson").mkdir()
    annotations = []
    for image, names in scenes.items():
        Image.new("RGB", SIDES).save(root / f"images/{image}.png")
        for n, name in enumerate(names):
            one = dict(id=len(annotations) + 1, image_id=image, category_id=IDS[name])
            crowd = (image, name) in crowds
            box = [n, 5 * n, 10 + n, 10]
            annotations.append(dict(one, bbox=box, area=box[2] * 10, iscrowd=int(crowd)))
    width, height = SIDES
    contents = dict(
        images=[dict(id=i, file_name=f"{i}.png", width=width, height=height) for i in scenes],
        annotations=annotations,
        categories=[dict(id=i, name=name) for name, i in sorted(IDS.items(), key=lambda x: x[1])],
    )
    (root / "instances.json").write_text(json.dumps(contents))
    for label, name in enumerate(NAMES):
        lines = [
            json.dumps(dict(word=name, recognized=True, drawing=[[[label, n], [0, 99]]]))
            for n in range(NUM_DRAWINGS)
        ]
        (root / f"ndjson/{name}.ndjson").write_text("\n".join(lines))
    return root


def build(root, **settings):
    settings = (
        dict(
            data_root=str(root),
            ann_file="instances.json",
            data_prefix=dict(img="images/"),
            sketch_root=str(root),
            metainfo=dict(classes=NAMES),
            pipeline=[],
        )
        | settings
    )
    return SketchCocoDataset(**settings)


def items(dataset, *, epochs=1):
    """Return what a training sees."""
    sampler = SeededSampler(dataset, seed=0)
    out = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        out += [dataset[i] for i in sampler]
    return out


def drawn(item):
    """Return the category that each sketch of an item shows, and its number."""
    return [(NAMES[int(s[0][0, 0])], int(s[0][0, 1])) for s in item["drawings"]]

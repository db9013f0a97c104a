"""Index of the models, by which OpenMIM and `mmengine.hub` find the configs of a package."""

from mmengine.fileio import dump

from .zoo_table import Row

FILE = "metafile.yml"
# task, data set and name of a published figure, by what the docstrings call it
RESULTS = {
    "top-1": ("Image Classification", "ImageNet-1k", "Top 1 Accuracy"),
    "box AP": ("Object Detection", "COCO", "box AP"),
    "mask AP": ("Instance Segmentation", "COCO", "mask AP"),
    "mIoU": ("Semantic Segmentation", "ADE20K", "mIoU"),
}


def write_index(rows: list[Row]) -> str:
    """Return the index of all configs in YAML, with published results and weights."""
    collections = [dict(Name=name) for name in sorted({row.backbone for row in rows})]
    content = dict(Collections=collections, Models=[_describe(row) for row in rows])
    return dump(content, file_format="yaml", sort_keys=False)


def _describe(row: Row) -> dict:
    # the path has a folder before the part by which `mmengine.hub` looks for it
    model: dict = {"Name": row.config, "In Collection": row.backbone}
    model["Config"] = f"./configs/{row.config}.py"
    results = [
        {"Task": task, "Dataset": dataset, "Metrics": {name: figure}}
        for metric, (task, dataset, name) in RESULTS.items()
        if (figure := row.result(metric)) is not None
    ]
    if results:
        model["Results"] = results
    if row.weights:
        # a name, which stands for a file wherever a path does, as not all addresses serve files
        model["Weights"] = row.weights[0]
    return model

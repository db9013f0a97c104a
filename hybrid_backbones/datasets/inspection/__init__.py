"""Inspection of whole data sets before a training: all problems at once, and two pictures.

`coco` and `folders` read a set, `images` and `label_maps` its files; `charts` and `sheet` draw,
with the names of `lettering`.
"""

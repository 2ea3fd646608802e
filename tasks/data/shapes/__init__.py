"""Procedural solids with closed-form geometry, free of anyone's data: cars in place of ShapeNet's,
and heads.

Every object is a :class:`~tasks.data.shapes.sdf.Solid` inside the unit sphere, y up; a number names
it for good.
"""

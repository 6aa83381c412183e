"""Scenes that are made from a seed.

- `generated`: parameters, random streams, placing, painting, and the dataset in a cache file.
- `digits`: handwritten digits as tiles for scenes.
- `fruits`: fruits that pile up in a container.
- `solids/`: solids with textures, by a ray caster.
"""

"""Textured solids on a ground, in perspective.

- `materials`: textures with heights, made from noise.
- `raycast`: where rays meet solids.
- `shading`: lights, shadows and colours of what rays meet.
- `scenes`: which solids are where, as in CLEVRTEX and its variants.
"""

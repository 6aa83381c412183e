"""What a folder of one's own images may hold beside them, for `ImageFolder`.

- `split_folders`: which images are for training, validation and testing.
- `look`: how large the images are, and whether they have colours.
- `coco`, `coco_values`: annotations in COCO's JSON, and the checks of each of its values.
- `named_files`: the files that annotations mean by their names.
- `mask_files`: masks as images, with an id for each pixel.
"""

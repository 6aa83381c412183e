"""How data sets lie on disk: what any of them reads and writes files with.

- `archives`: downloads, checked by hash, and unpacking.
- `cache`: generated data in one file with a manifest, and the folders for it.
- `converted`: published files turned into arrays that are mapped into memory, and the dataset that reads them.
- `images`: images of any origin as tensors, and the way to a model's size and back.
- `tfrecord`, `multi_object`: TFRecords, and DeepMind's Multi-Object Datasets, which are made of them.
"""

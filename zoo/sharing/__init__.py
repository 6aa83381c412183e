"""Trained models for others, which are known through `zoo.registry` alone.

`weights` finds, reads and writes checkpoints, `former` has how records of the first format read, `hub` writes folders
and repositories of the Hugging Face hub, `export` programs that run without this package.
"""

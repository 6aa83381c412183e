"""What `python -m zoo VERB` runs, a verb a file.

`cli` is the verbs that have a trainer (fit, validate, test, predict on a datamodule, cluster), with its `parser`, the
`agreement` of model and data, and `cluster`'s report. The others have a `main` each: `predict` (a folder of images,
scored by `scoring`), `show`, `page`, `export`, `benchmark`, `curriculum`, `dashboard`, `figure`, `results`, `speed`
and `publish`. Their command lines are parsed by `arguments`; those that look at one's own images share `photos`.
"""

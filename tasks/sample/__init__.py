"""The sample data set: a small, procedurally drawn savanna with known truth.

`python -m tasks.sample --out data` writes videos, annotations and two unseen videos. Everything in it is drawn by
this package, so it can be shared freely. From inside: `poses` and `casts` say what an animal does, `sites` where and
when, `scenes` puts them together with the true spans and captions, `draw` makes pixels, `encode` makes files,
`plan` chooses the clips and `make` writes the folder.
"""

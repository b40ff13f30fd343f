"""Extractors of features.

`extractors` has their base and the scorer by metrics of features; `classifier` is trained on the data set itself;
`fidelity`, `dinov2` and `efficientnet` have published weights, `pretrained` their base, `weights` their files.
"""

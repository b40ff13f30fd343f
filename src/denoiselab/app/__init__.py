"""The entry layer: configuration to objects, checks, run directories, exit codes.

For what the user can change functions raise `BadInput`, with the sentence that is printed; docstrings list other
errors.

Everywhere `config` is a resolved configuration in plain containers, `asked` what the user set, `sweeping` whether the
job is one of a multirun, and `option` the name of a node in messages.
"""

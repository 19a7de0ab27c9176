"""What runs inside the sandbox: read by its own interpreter, never imported by the project.

`program` runs the model's program; `tests` runs the tests, in a sandbox of its own, and decides.
These files import each other by bare name and nothing that is slow to load, since an interpreter
starts afresh for every program: the whole of it, sandbox included, takes some 25 ms.
"""

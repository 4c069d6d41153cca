"""The side of the sandbox that runs in the process of the untrusted program.

Nothing here is trusted by the host: a program can change every object of this package. It imports the
standard library, numpy, Pillow and msgpack only, because it starts in an interpreter that has no more.
"""

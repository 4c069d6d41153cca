"""Dictionaries (sparse autoencoders) as their libraries publish them.

`dictionary` holds the record and its arithmetic, `files` reads weights and configurations safely, and one
module a format makes the record of what it read. A format computes all that a file asks for, or refuses it
by name. `formats.load` is where others come in.
"""

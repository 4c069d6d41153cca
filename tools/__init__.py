"""The parts that an agent may use: `system`, `tools`, and the sandbox that its programs run in.

This package knows nothing of language models or message formats.
"""

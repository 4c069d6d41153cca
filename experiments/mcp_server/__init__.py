"""`maia mcp`: agents from outside study units with the built-in agent's tools (Model Context Protocol).

A client takes the place of the language model. Each of its tool calls becomes one reply of the interpreter's
conversation, so that rounds, limits, critic and records are those of every other study.
"""

"""Who reasons: the interpreter, blind observers, the critic, and the orchestrator that runs many of them."""

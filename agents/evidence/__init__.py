"""What is known of a label, each figure in a module of its own: pure functions and records, without images or
models.

`specific`: the test on fresh images (`agents.evidence.trials`). `strength`: how much of the unit's range
these images reach. `coverage`: how many of the strongest images show the label. `held_out`: whether it is
true on real images that no agent saw. `reach`: whether generated images reach the unit's range at all.
`finding`: the verdict that follows.
"""

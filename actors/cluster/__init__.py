"""The Ray cluster itself: started or joined, private to this user, and what stands in its way on this
machine.
"""

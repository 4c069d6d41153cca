"""The Ray cluster itself: started or joined, private to this user, and what prevents it on this
machine.
"""

"""The Ray cluster: started or joined, private to this user, on a machine that is checked first."""

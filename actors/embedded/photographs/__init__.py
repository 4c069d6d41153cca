"""The embedded classifier of photographs, and the kinds of WordNet that its classes belong to."""

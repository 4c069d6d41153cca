"""Audits of a network's classes: in which contexts does a class lose or gain probability?"""

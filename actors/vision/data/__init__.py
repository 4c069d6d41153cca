"""Data sets of images: folders, tables, the hub; labels; distinct images; the part held out for
confirmation.
"""

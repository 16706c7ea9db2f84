"""The remedies that docs/compatibility.md shows, each a module for a project to copy.

The page has these very files, and the bench runs them.
"""

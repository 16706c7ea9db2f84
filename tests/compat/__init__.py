"""Streams in the company of other people's packages: ``make compat`` runs it.

Each stranger of ``strangers.py`` is switched on by itself in the small project of ``project/``, which a
real server serves. ``trial.py`` tries the stream's promises on it, ``sightings.py`` looks at what
the package has seen, and ``page.py`` writes the table of ``docs/compatibility.md``.
"""

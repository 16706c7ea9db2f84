"""Models as live streams: the rows of a queryset, as one user may see them, kept up to date.

``changes`` tells all processes which rows were touched. ``paths`` finds the rows that show another
model's object. A ``Plan`` reads rows in a thread, a ``Group`` decides what its connections are sent,
and ``view`` is the view.
"""

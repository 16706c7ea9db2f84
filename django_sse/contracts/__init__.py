"""What clients may rely on: the streams of a project, their events, and JSON Schemas of these.

Here belongs what describes streams for people and programs; what holds code to a declaration is in
``topics/declarations.py``.
"""

"""The contract with clients: the streams of a project, their events, and their JSON Schemas.

Here belongs what describes streams for people and programs; what holds code to a declaration is in
``topics/declarations.py``.
"""

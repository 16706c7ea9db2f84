"""Jobs: work that goes on without its client, whose events any number of clients read, then or later.

Each job has two topics: one with its events, which clients follow, and one with its *record*, which
only processes read. The broker's history is the only store of both.
"""

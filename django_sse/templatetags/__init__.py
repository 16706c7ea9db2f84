"""Template tags: ``{% load sse %}``."""

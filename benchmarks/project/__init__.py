"""The Django project that is measured: a start project, with streams."""

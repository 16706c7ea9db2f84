"""A project whose PostgreSQL connections come from Django's pool, for ``test_database_pool``."""

"""Alembic's environment; store/migrate.py runs it from code."""

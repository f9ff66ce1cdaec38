"""Postgres as the gateway uses it, through asyncpg: SQL functions called as their callers, and the schema."""

from __future__ import annotations

from gateway.adapters.postgres.database import PostgresDatabase, Timeouts

__all__ = ["PostgresDatabase", "Timeouts"]

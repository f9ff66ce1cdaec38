from tests.adapters.databases import cluster, database, superuser, superuser_url
from tests.adapters.postgrest import postgrests

__all__ = ["cluster", "database", "postgrests", "superuser", "superuser_url"]

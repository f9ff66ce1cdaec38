from tests.adapters.databases import cluster, database, superuser, superuser_url

__all__ = ["cluster", "database", "superuser", "superuser_url"]

"""Redis, or Valkey: what the replicas share, one kind of it a module. One connection pool serves all."""

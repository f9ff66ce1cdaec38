"""A package, so that its replicas end with its tests."""

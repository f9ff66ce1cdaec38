"""Limits on what callers may take: how they are counted, in this process and over all replicas."""

"""Runs of workflows: what calls n8n, keeps the events, and settles the credits."""

"""Supabase as the gateway uses it: its REST API, on which each SQL function is called as its caller."""

from __future__ import annotations

from gateway.adapters.supabase.database import SupabaseDatabase
from gateway.adapters.supabase.http import Timeouts

__all__ = ["SupabaseDatabase", "Timeouts"]

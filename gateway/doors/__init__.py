"""The doors, one wire each: bytes to calls, outcomes to what the wire has for them."""

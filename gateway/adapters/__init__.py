"""Outside systems, one a module; each turns that system's errors into the gateway's own."""

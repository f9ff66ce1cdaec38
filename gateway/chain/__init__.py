"""The links of the chain, one concern a file: they look at a call, and refuse it or let it pass."""

"""What each RPC means: one class for each service of the contract."""

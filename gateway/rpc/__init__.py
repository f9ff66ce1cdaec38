"""What every door shares: the call, the table of methods, the chain, errors and their wire form."""

"""The subcommands of `n8n-gateway` that do more than start it, one a module, and how they take secrets."""

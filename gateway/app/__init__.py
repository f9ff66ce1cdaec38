"""The composition root: the one place where parts are put together.

::

    gateway      start and stop of the whole
    surroundings what stands around it: database, Redis, vault, n8n, identity
    callers      what is known of callers, and the chain that each call passes
    services     what each RPC is answered by, and what runs workflows
    ports        the doors, and where they listen
    start_checks what is looked at once, before any of it serves
"""

from gateway.app.gateway import Gateway

__all__ = ["Gateway"]

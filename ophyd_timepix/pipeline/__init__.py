"""Supervisor, stages, messages, shared blocks and ledger. Knows flow, not physics."""

"""The front door's rooms: one click command per step. Only commands know every package."""

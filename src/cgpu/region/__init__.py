"""The files that a tenant and the agent share: their layout, reading and writing them."""

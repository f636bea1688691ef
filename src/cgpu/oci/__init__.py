"""Containers of any OCI runtime as tenants: their environment, their bundle, and the way to the real runtime."""

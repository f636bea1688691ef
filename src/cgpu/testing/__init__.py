"""Fakes of the agent's ports and builders of values, for our tests and for those who build on cgpu."""

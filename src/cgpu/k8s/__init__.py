"""Kubernetes: what the node driver publishes and prepares, what admission makes of pods, what people are told."""

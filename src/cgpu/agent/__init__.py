"""The node daemon: it owns all state of the node, and everything else asks it."""

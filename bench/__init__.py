"""Measurements that README and the documents quote. `python -m bench` runs them all."""

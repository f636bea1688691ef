"""The kubelet's gRPC interfaces for node plugins. The .proto files are ours, from what is on the wire.

The modules that end in ``_pb2`` are made from them by ``make proto``.
"""

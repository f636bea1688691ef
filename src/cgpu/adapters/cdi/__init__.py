"""CDI devices: a tenant, its view, and the file by which engines know it (Container Device Interface, SPEC.md).

``spec`` is the file's content, pure; ``devices`` makes, shows and removes.
"""

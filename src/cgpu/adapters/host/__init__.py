"""This software on a host: a copy of the program, a systemd unit, and what `cgpu upgrade` does to both."""

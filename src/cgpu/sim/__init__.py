"""The simulated GPU: machines without hardware, made from profiles, whose truth is known exactly."""

"""The live run: a real Prometheus scrapes the running stack under load while faults are injected; every panel must show something, every alert must notice its fault."""

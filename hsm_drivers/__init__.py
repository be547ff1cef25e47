"""PKCS#11 tokens behind ports, and the one process that may talk to them."""

"""Use cases, and the ports through which they reach storage, signer, clock and randomness."""

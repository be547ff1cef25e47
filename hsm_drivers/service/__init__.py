"""Service keys in the signer: kept, used, narrowed, destroyed."""

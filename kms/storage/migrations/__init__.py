"""How the tables came to be: one module per change, applied by `kms.storage.migrate`."""

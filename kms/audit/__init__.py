"""The offline verifier `kms-audit`; it trusts no server."""

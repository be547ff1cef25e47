"""Use cases of KEM slots: keys that others seal to, certified and opened in the signer."""

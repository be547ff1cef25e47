"""Names, profiles, keys, proofs, certificates, CRLs and the checks on what is signed."""

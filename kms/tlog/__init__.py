"""The log's mathematics, pure: tree, tiles, proofs, notes, checkpoints, receipts.

Bytes in, values or a `TlogError` out; nothing here reads a file, a socket or a clock. Formats are
C2SP's (signed-note, tlog-checkpoint, tlog-cosignature, tlog-tiles, tlog-proof), hashing is
RFC 6962's, so that foreign verifiers work unchanged.
"""

"""The log's mathematics: RFC 6962 tree, tiles, notes, checkpoints, receipts; pure."""

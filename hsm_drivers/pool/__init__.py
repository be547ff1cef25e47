"""Several tokens behind processes of their own, as one `tokens.Tokens`."""

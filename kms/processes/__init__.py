"""What runs as a process, and how: supervisor, signer start, worker, PIN, users, locks."""

"""The officers' and operators' command line."""

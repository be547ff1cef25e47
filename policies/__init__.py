"""What an algorithm is and whether it may be used: registry, rules, decisions."""

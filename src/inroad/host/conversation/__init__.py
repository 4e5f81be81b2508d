"""A program that runs with a user's rights, is handed something, and answers."""

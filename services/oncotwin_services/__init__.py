"""What people and other programs talk to: the command line."""

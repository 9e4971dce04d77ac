"""The phases of each command, in order. Nothing here knows the command line."""

"""The command line: a verb a file, and how they show what they found."""

"""Data and models of sequences: text (characters) and signals.

`sonnets.txt`: Shakespeare's sonnets (1609), in the public domain; the text of Project Gutenberg
(etext 1041), without its header and without spaces at the ends of lines.
"""

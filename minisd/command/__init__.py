"""The one command, `minisd`: its words, what each of its commands does, what it says.

Nothing heavy is imported before the words have been read.
May import: everything. Imported by: `__main__` only.
"""

"""The grader's parts: `minisd.grade` is its command.

submission what was handed in: whose, which notebook, and what is not read
calls      the `check` calls of a notebook, from its syntax tree
data       a case's arguments as JSON and back; a student's answers, numbers only
runner     a process of its own: runs a notebook in a kernel, asks its functions (no torch here)
kernel     what the runner loads into the student's kernel to ask a function
jobs       one submission: its folder, the runner, the verdicts in the grader's own process
record     rows already done, so that an interrupted run goes on
page       the tables: CSV, a page, lines for the terminal
"""

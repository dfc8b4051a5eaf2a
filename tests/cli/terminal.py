"""Types answers into a program on a terminal of its own, and prints what a person would see.

Arguments: the folder, and the program with its arguments. Standard input: a JSON list of [what to wait for, what to type]; an answer
of null is Ctrl-C.
"""

import json
import os
import pty
import sys
import termios

folder, *program = sys.argv[1:]
pid, terminal = pty.fork()
if pid == 0:
    os.chdir(folder)
    os.execv(program[0], program)

seen = b""


def more():
    """Reads what has been printed; false once the program has ended."""
    global seen
    try:
        part = os.read(terminal, 4096)
    except OSError:
        return False
    seen += part
    return part != b""


for question, answer in json.load(sys.stdin):
    start = len(seen)
    while question.encode() not in seen[start:]:
        if not more():
            sys.exit(f"ended before it asked for {question}: {seen!r}")
    if "not shown" in question:
        # The question comes before the echo is off.
        while termios.tcgetattr(terminal)[3] & termios.ECHO:
            pass
    os.write(terminal, b"\x03" if answer is None else answer.encode() + b"\n")
while more():
    pass
_, status = os.waitpid(pid, 0)
has_echo = bool(termios.tcgetattr(terminal)[3] & termios.ECHO)
print(json.dumps({"seen": seen.decode(), "code": os.waitstatus_to_exitcode(status), "has_echo": has_echo}))

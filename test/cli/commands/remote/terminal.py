"""Runs a program in a terminal of its own: terminal.py ROWS COLUMNS PROGRAM ARGS...

What the program writes goes to standard output. Lines on standard input act on it: `size ROWS COLUMNS`,
`keys HEX`, `signal NAME`. At its end a line on standard error says, as JSON, how it ended and whether the
terminal has the settings that it had before.
"""
import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios


def resize(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", int(rows), int(columns), 0, 0))


def act(fd, pid, line):
    verb, *rest = line.split()
    if verb == "size":
        resize(fd, *rest)
        os.kill(pid, signal.SIGWINCH)
    elif verb == "keys":
        os.write(fd, bytes.fromhex(rest[0]))
    elif verb == "signal":
        os.kill(pid, getattr(signal, rest[0]))


def main():
    rows, columns, *program = sys.argv[1:]
    # The far end is kept open here, so that the settings can be read when the program has ended.
    near, far = pty.openpty()
    resize(near, rows, columns)
    before = termios.tcgetattr(far)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        fcntl.ioctl(far, termios.TIOCSCTTY, 0)
        for fd in (0, 1, 2):
            os.dup2(far, fd)
        os.execvp(program[0], program)
    pending = b""
    inputs = [near, 0]
    while True:
        ready, _, _ = select.select(inputs, [], [], 0.05)
        if near in ready:
            sys.stdout.buffer.write(os.read(near, 65536))
            sys.stdout.buffer.flush()
        if 0 in ready:
            part = os.read(0, 65536)
            if not part:
                inputs.remove(0)
            pending += part
            while b"\n" in pending:
                line, pending = pending.split(b"\n", 1)
                act(near, pid, line.decode())
        if not ready:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
    after = termios.tcgetattr(far)
    code = os.waitstatus_to_exitcode(status)
    print(json.dumps({"code": code, "isRestored": after == before}), file=sys.stderr)


main()

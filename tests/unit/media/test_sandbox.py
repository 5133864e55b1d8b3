"""A decoder that is taken over can open nothing, call nobody and start nothing. Real processes, real system calls."""

import socket
import subprocess
import sys

import pytest

from s2s.errors import ProcessingError
from s2s.media import sandbox
from s2s.media.ffmpeg import Child, ChildLimits, run_ffmpeg

TRIES = {
    "opening a file": "open('/etc/hostname')",
    "making a file": "open('here', 'w')",
    "opening by another call": "syscall(437, -100, b'/etc/hostname', b'\\0' * 24, 24)",
    "removing a file": "os.unlink('/nowhere')",
    "the network": "socket.socket()",
    "a pair of sockets": "socket.socketpair()",
    "a process": "os.fork()",
    "a program": "os.execv('/bin/true', ['true'])",
    "a signal to others": "os.kill(os.getppid(), 0)",
    "memory of others": "syscall(310, os.getppid(), 0, 0, 0, 0, 0)",
    "name spaces": "syscall(272, 0)",
}
ALLOWED = {
    "a thread": "thread = threading.Thread(target=int); thread.start(); thread.join()",
    "reading and writing": "os.write(1, os.pread(source, 10, 0) and b'')",
    "memory": "bytearray(50_000_000)",
    "the time": "time.sleep(0.001)",
}
SCRIPT = """
import ctypes, errno, os, socket, sys, threading, time
from s2s.media import sandbox
libc = ctypes.CDLL(None, use_errno=True)
def syscall(*args):
    if libc.syscall(*args) < 0:
        raise OSError(ctypes.get_errno(), "")
source = os.open(sys.argv[0] if os.path.exists(sys.argv[0]) else "/etc/hostname", os.O_RDONLY)
assert sandbox.enter(), "no seccomp here"
try:
    {action}
except OSError as exc:
    print("refused" if exc.errno == errno.EPERM else exc)
else:
    print("allowed")
"""


def tried(action: str) -> str:
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(action=action)], capture_output=True, text=True,
                          timeout=60)  # fmt: skip
    return done.stdout.strip() or done.stderr[-500:]


@pytest.mark.parametrize("what", TRIES)
def test_what_a_decoder_needs_not_is_refused(what):
    assert tried(TRIES[what]) == "refused"


@pytest.mark.parametrize("what", ALLOWED)
def test_what_a_decoder_needs_is_allowed(what):
    assert tried(ALLOWED[what]) == "allowed"


@pytest.mark.parametrize("what", TRIES)
def test_a_program_may_open_files_and_no_more(what):
    action = SCRIPT.format(action=TRIES[what]).replace('assert sandbox.enter(), "no seccomp here"', "")
    child = Child([sys.executable, "-c", action], ChildLimits(), forbids=sandbox.program(sandbox.PROGRAM_NEEDS))
    with child:
        said = child.read(100).decode().strip()
    if what in ("opening a file", "making a file", "opening by another call"):
        assert said != "refused"
    elif what != "a program":  # nothing comes of it: what runs then is under the same filter
        assert said == "refused", child.errors


def test_ffmpeg_reaches_no_network_even_when_it_is_told_to(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        port = server.getsockname()[1]
        with pytest.raises(ProcessingError, match="ffmpeg failed"):
            run_ffmpeg(["-protocol_whitelist", "http,tcp", "-i", f"http://127.0.0.1:{port}/", str(tmp_path / "a.wav")])
        with pytest.raises(TimeoutError):
            server.accept()

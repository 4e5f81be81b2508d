"""A child with another user's rights on Windows: its calls as text, over a fake that starts real programs."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = r'''
import asyncio, ctypes, os, subprocess, sys, types
import ctypes.wintypes, msgspec
import asyncio.subprocess

calls, suspended, jobs = [], {}, {}
PROCESS, THREAD, JOB, OPENED, TOKEN, COPY = 1001, 1002, 2001, 3001, 3002, 3003

def number(value):
    return getattr(value, "value", value)

class Library:
    """Functions that hold state: a program starts when its thread is resumed and ends with its job."""
    def OpenProcess(access, inherit, process):
        calls.append(f"OpenProcess({access:#x}, {process})")
        return OPENED
    def OpenProcessToken(process, access, out):
        calls.append(f"OpenProcessToken({access:#x})")
        out._obj.value = TOKEN
        return 1
    def DuplicateTokenEx(token, access, attributes, level, kind, out):
        calls.append(f"DuplicateTokenEx({number(token)}, {access:#x}, level={level}, kind={kind})")
        out._obj.value = COPY
        return 1
    def CreateJobObjectW(attributes, name):
        jobs[JOB] = None
        return JOB
    def SetInformationJobObject(job, kind, limits, size):
        calls.append(f"SetInformationJobObject(kind={kind}, flags={limits._obj.flags:#x}, size={size})")
        return 1
    def CreateProcessWithTokenW(token, logon, program, line, flags, environment, directory, info, process):
        fds = [info._obj.stdin, info._obj.stdout, info._obj.stderr]
        assert all(os.get_inheritable(fd) for fd in fds)
        said = f"{number(token)}, {logon}, {flags:#x}, {directory!r}, {info._obj.flags:#x}"
        calls.append(f"CreateProcessWithTokenW({said})")
        calls.append(repr(environment[:]))
        if program == "missing":
            return 0
        suspended[THREAD] = (line.value, fds)
        process._obj.process, process._obj.thread = PROCESS, THREAD
        return 1
    def AssignProcessToJobObject(job, process):
        calls.append(f"AssignProcessToJobObject({number(job)}, {number(process)})")
        return 1
    def TerminateProcess(process, status):
        calls.append("TerminateProcess")
        return 1
    def ResumeThread(thread):
        calls.append("ResumeThread")
        line, (stdin, stdout, stderr) = suspended.pop(number(thread))
        streams = dict(stdin=stdin, stdout=stdout, stderr=stderr)
        jobs[JOB] = subprocess.Popen(line, shell=True, start_new_session=True, **streams)
        return 1
    def CloseHandle(handle):
        calls.append(f"CloseHandle({number(handle)})")
        process = jobs.pop(number(handle), None)
        if process is not None:
            if process.poll() is None:
                calls.append("the job ends its programs")
                os.killpg(process.pid, 9)
            process.wait()
        return 1

class Functions:
    def __getattr__(self, name):
        function = vars(Library).get(name)
        if function is None:
            function = lambda *arguments: 1
        setattr(self, name, function)
        return function

libraries = Functions()
ctypes.WinDLL = lambda *_, **__: libraries
ctypes.WinError = lambda number=0: OSError(number, "refused")
ctypes.get_last_error = lambda: 2
sys.modules["msvcrt"] = types.SimpleNamespace(get_osfhandle=lambda fd: fd)
os.set_handle_inheritable = os.set_inheritable
sys.platform = "win32"
from inroad.host.conversation import conversation_windows as windows
from inroad.host.conversation.conversation_windows import UserToken, converse

# As on 64-bit Windows: pointers and numbers are as long here, wide characters are not.
print([ctypes.sizeof(kind) for kind in (windows.StartupInfo, windows.ProcessInfo, windows.JobLimits)])
BEFORE = set(os.listdir("/proc/self/fd"))
async def first():
    token = UserToken(4711)
    out, err = await converse(token, ["cat"], b"a task", limit=4)
    return out
print(asyncio.run(first()))
print("\n".join(calls))
calls.clear()

async def second():
    token = UserToken(4711)
    calls.clear()
    try:
        await converse(token, ["missing"], b"", limit=1)
    except OSError as problem:
        print("refused:", problem.strerror)
    task = asyncio.create_task(converse(token, ["sleep", "1000"], b"", limit=1))
    while jobs.get(JOB) is None:
        await asyncio.sleep(0.01)
    calls.clear()
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        print("cancelled:", ", ".join(calls))
asyncio.run(second())
print("descriptors left:", len(set(os.listdir("/proc/self/fd")) - BEFORE))
'''

SAID = r"""[104, 24, 144]
b'a ta'
OpenProcess(0x1000, 4711)
OpenProcessToken(0xa)
CloseHandle(3001)
DuplicateTokenEx(3002, 0x2000000, level=2, kind=1)
CloseHandle(3002)
SetInformationJobObject(kind=9, flags=0x2000, size=144)
CreateProcessWithTokenW(3003, 0, 0x8000404, 'C:\\', 0x100)
'PATH=C:\\Windows\\System32;C:\\Windows\x00SystemRoot=C:\\Windows\x00\x00\x00'
AssignProcessToJobObject(2001, 1001)
ResumeThread
CloseHandle(1002)
CloseHandle(1001)
CloseHandle(2001)
CloseHandle(3003)
refused: refused
cancelled: CloseHandle(2001), the job ends its programs
descriptors left: 0
"""


def test_a_child_has_the_callers_token_and_ends_with_its_job() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == SAID

import subprocess
import sys


def test_a_child_is_stopped_when_its_parent_is_killed():
    child = "import time; print('ready', flush=True); time.sleep(20); print('still here')"
    parent = (
        "import subprocess, sys\nfrom boceto import process\n"
        f"with process.child([sys.executable, '-c', {child!r}], subprocess.Popen.terminate) as child:\n    child.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout.readline() == "ready\n"
        killed.kill()
        assert killed.stdout.read() == ""

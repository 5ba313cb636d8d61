"Shared by all tests: one thread, so that numbers and times do not depend on the machine's cores"
import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('HF_HUB_DISABLE_TELEMETRY', '1')
os.environ['PYDEVD_DISABLE_FILE_VALIDATION'] = '1'
signal.signal(signal.SIGINT, signal.default_int_handler) # a shell starts jobs in the background with Ctrl-C ignored, which tests and their children would inherit
ROOT = Path(__file__).parents[1]

SLOW = ('notebooks', 'browser', 'tutorial', 'train', 'matches', 'install', 'docs', 'watch', 'ranks', 'cli')

def pytest_collection_modifyitems(items):
    "Long files first, so that both workers have something to do until the end"
    rank = {f'test_{k}.py': n for n,k in enumerate(SLOW)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))

@pytest.fixture(scope='session')
def root(): return ROOT

@pytest.fixture(scope='session')
def copy(tmp_path_factory):
    "The tracked files of the checkout, to run tools on that write"
    import shutil
    import subprocess
    dest = tmp_path_factory.mktemp('copy')/'sa-toolkit'
    files = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split('\n')
    for f in filter(None, files):
        if (ROOT/f).exists():
            (dest/f).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT/f, dest/f)
    return dest

@pytest.fixture(scope='module')
def shots(tmp_path_factory):
    "Where screenshots go: SA_SHOTS, or a folder that pytest keeps for a while"
    folder = Path(os.environ.get('SA_SHOTS') or tmp_path_factory.mktemp('shots'))
    folder.mkdir(parents=True, exist_ok=True)
    return folder

"Write the current hash of every carried file into NOTICE: python tools/notice.py"
import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]

def main():
    path, assets = ROOT/'NOTICE', ROOT/'sa_toolkit'/'assets'
    fresh = lambda m: f'{m[1]}{m[2]}{m[3]}{hashlib.sha256((assets/m[2]).read_bytes()).hexdigest()}'
    path.write_text(re.sub(r'^(\s*)(\S+)(\s+sha256 )\S+$', fresh, path.read_text(encoding='utf-8'), flags=re.M), encoding='utf-8')

if __name__ == '__main__': main()

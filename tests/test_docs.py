"The docs site builds offline, and its links lead somewhere"
import re
import subprocess
import sys
from urllib.parse import unquote

import pytest

@pytest.fixture(scope='module')
def site(copy):
    r = subprocess.run([sys.executable, 'tools/docs.py'], cwd=copy, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-3000:]
    return copy/'_docs'

def test_site_has_a_page_for_every_notebook(site, root):
    pages = {p.stem for p in site.rglob('*.html')}
    want = {re.sub(r'^\d+[a-z]?_', '', p.stem) for d in ('nbs', 'tutorials') for p in (root/d).glob('*.ipynb')}
    assert want <= pages, want - pages

def test_no_dead_links_and_nothing_from_afar(site):
    dead, far = [], []
    for page in site.rglob('*.html'):
        text = page.read_text(encoding='utf-8')
        far += [(page.name, u) for u in re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', text)]
        for href in re.findall(r'(?:href|src)="([^"#?]*)(?:[#?][^"]*)?"', re.sub(r'<(script|style)\b.*?</\1>', '', text, flags=re.S)):
            if not href or re.match(r'[a-z]+:', href) or href.startswith('//'): continue
            base = site if href.startswith('/') else page.parent
            if not (base/unquote(href).lstrip('/')).exists(): dead.append((page.name, href))
    assert not dead, dead[:10]
    assert not far, far[:10]

"The docs site: builds offline, leads somewhere, is found through, fits a phone, and asks nothing of another machine; its recipes run"
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import nbformat
import pytest
from lab import browse, browser_or_reason

GUIDE = ('quickstart', 'course', 'howto_structures', 'howto_models', 'howto_training', 'theory', 'benchmarks', 'neighbours', 'weights', 'cite', 'modules')

@pytest.fixture(scope='module')
def site(copy):
    r = subprocess.run([sys.executable, 'tools/docs.py'], cwd=copy, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-3000:]
    assert 'broken link' not in r.stderr, re.findall('.*broken link.*', r.stderr)
    return copy/'_docs'

class Page(HTMLParser):
    "Links, anchors, the sidebar's links, and what a page loads"
    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads, self.side, self.depth = set(), [], [], [], 0
        self.feed(path.read_text(encoding='utf-8'))
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.depth += tag == 'nav' if self.depth or a.get('id') == 'quarto-sidebar' else 0
        self.ids |= {a['id']} if 'id' in a else set()
        if tag == 'a' and a.get('href'): (self.side if self.depth else self.links).append(a['href'])
        if (url := a.get('src') or a.get('href')) and tag in ('script', 'link', 'img', 'iframe'): self.loads.append(url)
    def handle_endtag(self, tag): self.depth -= tag == 'nav' and self.depth > 0

@pytest.fixture(scope='module')
def pages(site): return {p: Page(p) for p in site.rglob('*.html') if p.parent.name != 'live'}

def bare(name): return re.sub(r'^\d+[a-z]*_', '', name)

def target(site, page, href): # file and anchor
    path, _, anchor = unquote(href).partition('#')
    file = ((site if path.startswith('/') else page.parent)/path.lstrip('/')).resolve() if path else page
    return file/'index.html' if file.is_dir() else file, anchor

def test_every_notebook_has_a_page_that_a_sidebar_leads_to(site, pages, root):
    want = {site/f'{bare(p.stem)}.html' for p in (root/'nbs').glob('*.ipynb')} | {site/'tutorials'/f'{bare(p.stem)}.html' for p in (root/'tutorials').glob('*.ipynb')}
    want |= {site/'guide'/f'{name}.html' for name in GUIDE}
    listed = [{target(site, at, h)[0] for h in pages[at].side} for at in (site/'guide'/'theory.html', site/'losses.html')]
    assert want <= set(pages) and want == listed[0] | listed[1], (want - set(pages), want ^ (listed[0] | listed[1]))
    assert not listed[0] & listed[1], 'the guide and the modules have a sidebar each'

def test_no_dead_links_and_nothing_from_afar(site, pages):
    links = [(p, h) for p, page in pages.items() for h in (*page.links, *page.side, *page.loads) if not re.match('[a-z]+:|//', h)]
    assert len(links) > 5000
    dead = [(p.name, h) for p, h in links if not (at := target(site, p, h))[0].exists() or at[1] and at[0] in pages and at[1] not in pages[at[0]].ids]
    assert not dead, dead[:10]
    assert not [(p.name, u) for p, page in pages.items() for u in page.loads if re.match('https?:|//', u)]
    assert not [p.name for p in site.rglob('*.css') if re.search(r'(@import\s+|url\()["\']?(https?:)?//', p.read_text(encoding='utf-8'))], 'a stylesheet loads from afar'

def test_formulas_are_drawn_by_the_browser(site):
    for name in ('guide/theory', 'losses'):
        text = (site/f'{name}.html').read_text(encoding='utf-8')
        body = re.sub(r'<(script|style|pre|code)\b.*?</\1>', '', text, flags=re.S)
        assert text.count('<math') > 10 and not re.search(r'\\(frac|sum|text|log|lVert)\b|\$\$', body)

def test_search_index_knows_every_page(site, pages):
    found = json.loads((site/'search.js').read_text(encoding='utf-8').removeprefix('window.sitePages = ').removesuffix(';\n'))
    assert {e['href'].split('#')[0] for e in found} == {p.relative_to(site).as_posix() for p in pages}

@pytest.fixture(scope='module')
def browser():
    if reason := browser_or_reason(): pytest.skip(reason)

def searched(page, words):
    page.fill('.smalldocs-search input', words)
    page.wait_for_selector('.smalldocs-search-results.show')
    page.wait_for_function('w => document.querySelector(".search-result")?.innerText.toLowerCase().includes(w)', arg=words.split()[0])
    return page.locator('.search-result').first

def test_read_from_disk(site, browser, shots):
    with browse() as page:
        page.goto((site/'index.html').as_uri())
        view = page.frame_locator('.sa-live iframe')
        view.locator('.sa-view[data-ready=structure]').wait_for()
        assert view.locator('.sa-letter').count() == 76
        page.screenshot(path=shots/'site_wide.png')
        page.goto((site/'guide'/'theory.html').as_uri())
        searched(page, 'infonce').click()
        page.wait_for_url('**/losses.html#infonce')
        assert searched(page, 'residue loss selection').inner_text().startswith('Residue loss selection')
        page.click('.quarto-color-scheme-toggle')
        page.wait_for_selector('html.quarto-dark')
        page.goto((site/'guide'/'weights.html').as_uri())
        assert page.locator('html.quarto-dark').count() == 1, 'the choice stays'
        assert not page.outside and not page.errors

def test_fits_a_phone(site, browser, shots):
    with browse(dark=True, size=(390, 844)) as page:
        for name in ('index', 'guide/howto_training', 'guide/theory', 'guide/benchmarks', 'guide/weights', 'losses', 'cli', 'tutorials/align_and_see'):
            page.goto((site/f'{name}.html').as_uri())
            assert page.evaluate('document.documentElement.scrollWidth') <= 390, f'{name} is wider than a phone'
        assert page.locator('html.quarto-dark').count() == 1
        page.goto((site/'losses.html').as_uri())
        page.click('.quarto-btn-toggle')
        assert page.locator('#quarto-sidebar .active:visible').inner_text() == 'Losses'
        page.screenshot(path=shots/'site_phone.png')
        assert not page.outside and not page.errors

@pytest.mark.parametrize('name', [k for k in GUIDE if k[:5] in ('howto', 'quick')])
def test_recipes_run(name, root):
    cells = [c.source for c in nbformat.read(root/'nbs'/'guide'/f'{name}.ipynb', 4).cells if c.cell_type == 'code']
    run_python('\n'.join(cells))

def run_python(text):
    r = subprocess.run([sys.executable, '-'], input=text, capture_output=True, text=True, env=os.environ | dict(MPLBACKEND='agg'))
    assert r.returncode == 0, r.stderr[-2000:]

def test_readme_python_runs(root, tmp_path, monkeypatch):
    "Word for word, but for the size of one model"
    (tmp_path/'proteins.fasta').write_text('>a\nMKTAYIAKQR\n')
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r'```python\n(.*?)```', (root/'README.md').read_text(), re.S)
    assert len(blocks) == 2
    run_python('\n'.join(blocks).replace('esm2-650M', 'tiny'))

@pytest.mark.parametrize('name', [k for k in GUIDE if k[:5] in ('howto', 'quick')])
def test_saved_outputs_are_whole(name, root):
    shown = [o for c in nbformat.read(root/'nbs'/'guide'/f'{name}.ipynb', 4).cells if c.cell_type == 'code' for o in c.outputs]
    assert shown and all(o.output_type != 'error' for o in shown) and not re.search(r'/(tmp|home|root)/|site-packages', str(shown))

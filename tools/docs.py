"""Build README.md from nbs/index.ipynb, or the docs site; both offline.

    python tools/docs.py            # the site, into _docs/
    python tools/docs.py readme     # README.md

The site is rendered by smalldocs from the notebooks that nbdev stages and from `nbs/_quarto.yml`. Nothing that it shows comes from another machine:
formulas are MathML, the theme brings no fonts, and the search index is a script, which a page opened from disk may load where it may not fetch.

A cell of the index that begins with `<!-- site -->` is for the site alone, one that begins with `<!-- readme -->` for README alone.
"""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).parents[1]
SITE, README = '<!-- site -->\n', '<!-- readme -->\n'

def readme():
    "README.md: the markdown cells of the index notebook, and its code cells as blocks"
    cells = [c for c in nbformat.read(ROOT/'nbs'/'index.ipynb', 4).cells if not c.source.startswith(SITE)]
    text = [c.source.removeprefix(README) if c.cell_type == 'markdown' else f'```python\n{c.source}\n```' for c in cells]
    body = re.sub(r'\]\((images|guide)/', r'](nbs/\1/', '\n\n'.join(text))
    return '<!-- made from nbs/index.ipynb by tools/docs.py; edit there -->\n\n' + body + '\n'

def bare(name):
    "A path without order numbers"
    return re.sub(r'(^|/)\d+[a-z]*_', r'\1', name)

def mathml(text):
    "Formulas as MathML, which browsers draw by themselves; a script from afar would do it otherwise. Code stays as it is"
    from latex2mathml.converter import convert
    def prose(part):
        part = re.sub(r'\$\$(.+?)\$\$', lambda m: convert(m[1], display='block'), part, flags=re.S)
        return re.sub(r'(?<![\w$`])\$([^$\n`]+)\$(?![\w$`])', lambda m: convert(m[1]), part)
    return ''.join(part if i % 2 else prose(part) for i, part in enumerate(re.split(r'(^```.*?^```)', text, flags=re.S | re.M)))

def finish_page(path):
    "A staged page: formulas drawn, its own name and those that its links say without numbers"
    links = lambda text: re.sub(r'(?<=[("])[\w./]+\.(?:html|ipynb)\b', lambda m: bare(m[0]).replace('../../tutorials/', '../tutorials/'), text)
    if path.suffix == '.md': path.write_text(links(mathml(path.read_text(encoding='utf-8'))), encoding='utf-8')
    else:
        nb = nbformat.read(path, 4)
        nb.cells = [c for c in nb.cells if not c.source.startswith(README)]
        for c in nb.cells:
            if c.cell_type == 'markdown': c.source = links(mathml(c.source))
        nbformat.write(nb, path)
    path.rename(path.with_name(bare(path.name)))

def listed(contents, nbs):
    "A sidebar's entries: a pattern replaced by the notebooks that match it, in the order of their numbers; a tutorial to come leads to what the course says of it"
    for c in contents:
        if isinstance(c, str): yield from [bare(p.relative_to(nbs).as_posix()) for p in sorted(nbs.glob(c))]
        elif 'contents' in c: yield c | dict(contents=list(listed(c['contents'], nbs)))
        elif c['href'].startswith('tutorials/') and not any(bare(p.name) == Path(c['href']).name for p in (nbs/'tutorials').glob('*.ipynb')):
            yield c | dict(href=f'guide/course.md#{Path(c["href"]).stem.replace("_", "-")}')
        else: yield c

def configure(cache, nbs):
    "What smalldocs reads beside the pages: sidebars with pages by name, Bootstrap's dark colours as a theme, names of the API that prose may link"
    import smalldocs
    file = cache/'_quarto.yml'
    config = yaml.safe_load(file.read_text(encoding='utf-8'))
    for side in config['website']['sidebar']: side['contents'] = list(listed(side['contents'], nbs))
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding='utf-8')
    css = Path(smalldocs.__file__).parent/'assets'/'vendor'/'bootstrap'/'bootstrap.min.css'
    (cache/'dark.css').write_text(css.read_text(encoding='utf-8').replace('[data-bs-theme=dark]', ':root'), encoding='utf-8')
    from sa_toolkit._modidx import d
    pages = [(name.split('.', 2)[2], f'/{bare(page)}') for syms in d['syms'].values() for name, (page, _) in syms.items() if page.split('.')[0] not in ('cli', 'demo')] # whose names repeat those of the modules they call
    names = {k: page for k, page in pages if k[0] != '_' and [other for other, _ in pages].count(k) == 1}
    (cache/'_symbols.json').write_text(json.dumps(names), encoding='utf-8')

def live(site):
    "The landing page's view: what the demo's alignment changed on a protein that it had not seen, from predictions that are stored"
    import numpy as np

    from sa_toolkit.widgets import compare_models
    (site/'live').mkdir()
    with np.load(ROOT/'nbs'/'images'/'ubiquitin.npz') as maps: before, after = (maps[k]/255 for k in ('before', 'after'))
    compare_models('1UBI', before, after).to_html(site/'live'/'ubiquitin.html')

def stage():
    "Every page as smalldocs reads it; the folder"
    from nbdev.doclinks import _build_modidx
    from nbdev.quarto import proc_nbs, refresh_quarto_yml
    nbs = ROOT/'nbs'
    shutil.copytree(ROOT/'tutorials', nbs/'tutorials', ignore=shutil.ignore_patterns('.*', 'my-*'))
    try:
        refresh_quarto_yml()
        _build_modidx()
        cache = proc_nbs(n_workers=0, symlinks=True, force=True)
        configure(cache, nbs)
    finally: shutil.rmtree(nbs/'tutorials')
    for p in [*cache.rglob('*.ipynb'), *cache.rglob('*.md')]: finish_page(p)
    return cache

def site():
    "Stage with nbdev, render with smalldocs"
    os.chdir(ROOT)
    from nbdev.config import get_config
    out, cache = get_config().doc_path, stage()
    subprocess.run([Path(sys.executable).with_name('smalldocs'), 'render', '-q', cache], check=True)
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(cache/out.name, out)
    (out/'search.json').rename(out/'search.js')
    (out/'search.js').write_text(f'window.sitePages = {(out/"search.js").read_text(encoding="utf-8")};\n', encoding='utf-8')
    live(out)
    return out

if __name__ == '__main__':
    if sys.argv[1:] == ['readme']: (ROOT/'README.md').write_text(readme(), encoding='utf-8')
    else: print(f'Open {site()/"index.html"}')

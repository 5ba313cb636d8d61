"""Build README.md from nbs/index.ipynb, or the docs site; both offline.

    python tools/docs.py            # the site, into _docs/
    python tools/docs.py readme     # README.md

The site is rendered by smalldocs from the notebooks that nbdev stages, with the same `_quarto.yml` that Quarto would read.
"""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]

def readme():
    "README.md: the markdown cells of the index notebook, and its code cells as blocks"
    nb = nbformat.read(ROOT/'nbs'/'index.ipynb', 4)
    text = [c.source if c.cell_type == 'markdown' else f'```python\n{c.source}\n```' for c in nb.cells]
    body = '\n\n'.join(text).replace('](images/', '](nbs/images/')
    return '<!-- made from nbs/index.ipynb by tools/docs.py; edit there -->\n\n' + body + '\n'

def bare(name):
    "A file name without its order number"
    return re.sub(r'(^|[/ ])\d+[a-z]?_', r'\1', name)

def mathml(path):
    "Formulas of a staged notebook as MathML, which browsers draw by themselves; a script from afar would do it otherwise"
    from latex2mathml.converter import convert
    nb = nbformat.read(path, 4)
    for c in (c for c in nb.cells if c.cell_type == 'markdown' and '$' in c.source):
        c.source = re.sub(r'\$\$(.+?)\$\$', lambda m: convert(m[1], display='block'), c.source, flags=re.S)
        c.source = re.sub(r'(?<![\w$`])\$([^$\n`]+)\$(?![\w$`])', lambda m: convert(m[1]), c.source)
    nbformat.write(nb, path)

def site():
    "Stage with nbdev, render with smalldocs"
    os.chdir(ROOT)
    from nbdev.config import get_config
    from nbdev.doclinks import _build_modidx
    from nbdev.quarto import nbdev_sidebar, proc_nbs, refresh_quarto_yml
    cfg, stage = get_config(), ROOT/'nbs'/'tutorials'
    shutil.copytree(ROOT/'tutorials', stage, ignore=shutil.ignore_patterns('.*'))
    try:
        refresh_quarto_yml()
        _build_modidx()
        nbdev_sidebar.__wrapped__(symlinks=True)
        cache = proc_nbs(n_workers=0, symlinks=True, force=True)
        for p in list(cache.rglob('*.ipynb')):
            mathml(p)
            p.rename(p.with_name(bare(p.name)))
        side = cache/'sidebar.yml'
        side.write_text(bare(side.read_text()))
        subprocess.run([Path(sys.executable).with_name('smalldocs'), 'render', '-q', cache], check=True)
        shutil.rmtree(cfg.doc_path, ignore_errors=True)
        shutil.move(cache/cfg.doc_path.name, cfg.doc_path)
    finally:
        shutil.rmtree(stage)
        (ROOT/'nbs'/'sidebar.yml').unlink(missing_ok=True)
    return cfg.doc_path

if __name__ == '__main__':
    if sys.argv[1:] == ['readme']: (ROOT/'README.md').write_text(readme(), encoding='utf-8')
    else: print(f'Open {site()/"index.html"}')

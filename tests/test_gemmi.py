"""The comparison with gemmi of `against_gemmi.py`, on the files that the repository carries"""
import re
from dataclasses import replace
from pathlib import Path

import against_gemmi
import numpy as np
import pytest

from sa_toolkit.core import asset
from sa_toolkit.structure import read_chains

HERE = Path(__file__).parent
FOLDERS = [HERE/'data'/'structures', asset('structures')]


def test_agrees_with_gemmi():
    text, unexplained = against_gemmi.run(FOLDERS)
    assert not unexplained, text
    rows = re.findall(r'^\| structures \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| ([\d.]+) Å \|$', text, re.M)
    assert len(rows) == 2 and all(int(n) == len(list(f.iterdir())) for (n, *_), f in zip(rows, FOLDERS, strict=True)), text
    assert all(float(worst) < .001 and int(atoms) > 1000 for *_, atoms, worst in rows)
    assert 'None differs.' in text and 'pdb1ubi_ca.pdb.gz' in text


@pytest.mark.parametrize('what, change', [
    ('letter', lambda c: dict(sequence=c.sequence[1:] + c.sequence[:1])), ('whole backbone', lambda c: dict(coords=np.roll(c.coords, 1, 0))),
    ('coordinates', lambda c: dict(coords=c.coords + np.float32(.01))), ('CB', lambda c: dict(cb_virtual=~c.cb_virtual)),
    ('author number', lambda c: dict(author_number=c.author_number + 1)), ('seen', lambda c: dict(status=np.roll(c.status, 1)))])
def test_the_comparison_sees_what_is_wrong(what, change):
    path = asset('structures/2XHE.cif.gz')
    c, (his, parents) = read_chains(path)[0], against_gemmi.theirs(path)
    assert not against_gemmi.compare(c, *his[c.label_chain], parents, path.name).differ
    assert any(d.startswith(what) for d in against_gemmi.compare(replace(c, **change(c)), *his[c.label_chain], parents, path.name).differ)


def test_the_table_is_of_this_script():
    text = (HERE/'against_gemmi.md').read_text(encoding='utf-8')
    assert text.startswith(against_gemmi.TEXT.split('{')[0]) and 'NOT EXPLAINED' not in text and re.search(r'^\| structures_test_only \| 258 \|', text, re.M)

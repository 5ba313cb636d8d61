"""The `esm` package, in an environment of its own

It needs Python ≥ 3.12 and older pins than CI tests, and brings 6 GB. Where the right `esm` can be imported, everything here runs. Elsewhere (CI) the sentences about
missing and mistaken packages and the conversion without the package do, and with SA_FULL=1 an environment is made from environment.yml in which this whole file and
tests/test_esmc.py are run.
"""
import gzip
import io
import os
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from sa_toolkit.core import UNNUMBERED, example_chain
from sa_toolkit.interop import esm_fields, esm_problem, from_esm
from sa_toolkit.structure import read_chain, read_chains

FILES = ('1A8O.cif.gz', '1A8O.pdb.gz', '1GBT.cif.gz', '1LCD.cif.gz', '3JQH.cif.gz', '4ZHL.cif.gz', '4hhb.pdb.gz')
GAPPY = ('2XHE.cif.gz', '4X21.cif.gz')
HERE = (spec := find_spec('esm')) is not None and not esm_problem(spec.submodule_search_locations[0])

@cache
def chains(root):
    paths = [*(root/'tests'/'data'/'structures'/f for f in FILES), *(root/'sa_toolkit'/'assets'/'structures'/f for f in GAPPY)]
    return [(p, c) for p in paths for c in read_chains(p)]

def same(a, b):
    "What both hold is equal"
    assert (a.id, a.sequence, a.labels, a.author_chain)==(b.id, b.sequence, b.labels, b.author_chain)
    assert np.array_equal(a.coords, b.coords, equal_nan=True) and np.array_equal(a.cb_virtual, b.cb_virtual) and np.allclose(a.cb, b.cb, atol=1e-4, equal_nan=True)
    assert np.array_equal(a.resolved, b.resolved) and np.array_equal(a.contacts(), b.contacts())

def test_there_and_back_without_the_package(root):
    n = 0
    for _, c in chains(root):
        same(c, from_esm(SimpleNamespace(**esm_fields(c))))
        n += 1
    assert n==15

def test_chains_are_chosen_for_what_can_go_wrong(root):
    cs = [c for _, c in chains(root)]
    assert any((c.insertion!='').any() for c in cs) and any(c.modified for c in cs) and any((~c.resolved).sum()>50 for c in cs) and any((c.status==2).any() for c in cs)
    assert any(c.label_chain not in ('', c.author_chain) for c in cs) and any((c.author_number==-1).any() for c in cs)

def test_numbers_that_are_unknown_stay_unknown():
    ubi = example_chain()
    f = esm_fields(ubi)
    f['atom37_mask'] = f['atom37_mask'].copy()
    f['atom37_mask'][:3] = f['atom37_mask'][40] = False
    f['residue_index'] = np.r_[-1, -1, -1, np.arange(0, 73)]
    c = from_esm(SimpleNamespace(**f))
    assert c.author_number[:5].tolist()==[UNNUMBERED, UNNUMBERED, -1, 0, 1] and c.status[[0,2,40,50]].tolist()==[3,3,3,0] and c.sequence_source=='SEQRES'

def test_half_a_backbone_is_refused_not_dropped():
    f = esm_fields(example_chain())
    f['atom37_mask'] = f['atom37_mask'].copy()
    f['atom37_mask'][10,0] = False
    c = from_esm(SimpleNamespace(**f))
    assert c.status[10]==2 and len(c)==76 and not c.resolved[10] and c.resolved.sum()==75 and c.audit.objections

def said_with(folder, env=None):
    "What require_esm says in a fresh process that finds packages in `folder` first"
    code = 'from sa_toolkit.interop import require_esm\ntry: require_esm()\nexcept ImportError as e: print(e)'
    e = os.environ | dict(PYTHONPATH=os.pathsep.join([str(folder), *sys.path]))
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env=e).stdout.strip()

def lay(folder, *files):
    for f in files:
        (folder/f).parent.mkdir(parents=True, exist_ok=True)
        (folder/f).write_text('raise SystemExit("nobody should import this")')
    return folder

def test_fair_esm_is_recognised(tmp_path):
    fair = lay(tmp_path/'fair', *(f'esm/{f}' for f in ('__init__.py', 'pretrained.py', 'model/esm2.py', 'inverse_folding/util.py')), 'fair_esm-2.0.0.dist-info/METADATA')
    said = said_with(fair)
    assert said.startswith(f'`import esm` leads to fair-esm in {fair}/esm, another package of the same import name: pip uninstall fair-esm esm') and '\n' not in said
    mixed = said_with(lay(fair, 'esm/models/esmc/model.py'))
    assert 'fair-esm, mixed with files of esm' in mixed

def test_an_old_esm_is_recognised(tmp_path):
    assert 'is older than 3.4' in said_with(lay(tmp_path, 'esm/__init__.py', 'esm/models/esmc.py', 'esm/sdk/api.py'))

def test_the_empty_extra_of_python_3_11_is_explained():
    assert '(this is 3.11, where the extra installs nothing)' in esm_problem(None, (3,11)) and 'installs nothing' not in esm_problem(None, (3,12))

if HERE:
    @pytest.fixture(scope='module')
    def ProteinChain():
        from esm.utils.structure.protein_chain import ProteinChain
        return ProteinChain

    def test_atom_order_is_theirs():
        from esm.utils import residue_constants

        from sa_toolkit.interop import ATOM37
        assert tuple(residue_constants.atom_types[:5])==ATOM37 and residue_constants.atom_type_num==37

    def test_there_and_back(root, ProteinChain):
        from sa_toolkit.interop import to_esm
        for _, c in chains(root):
            p = to_esm(c)
            assert isinstance(p, ProteinChain) and len(p)==len(c) and p.chain_id==c.author_chain
            same(c, from_esm(p))

    def test_the_same_as_their_own_reading(root, ProteinChain):
        "mmCIF: the same residues in the same places; theirs lacks some that have insertion codes"
        from sa_toolkit.interop import to_esm
        lost = {}
        for path, c in chains(root):
            if path.name.endswith('.pdb.gz'): continue
            mine, theirs = to_esm(c), ProteinChain.from_mmcif(io.StringIO(gzip.open(path, 'rt').read()), id=c.id.split('_')[0], chain_id=c.author_chain)
            both = mine.atom37_mask[:,:5] & theirs.atom37_mask[:,:5]
            assert mine.sequence==theirs.sequence and mine.chain_id==theirs.chain_id and mine.id==theirs.id
            assert np.array_equal(mine.atom37_positions[:,:5][both], theirs.atom37_positions[:,:5][both].astype(np.float32))
            there = theirs.atom37_mask.any(1)
            if (gone := int((c.resolved & ~there).sum())): lost[c.id] = gone
            assert not (there & (c.status==3)).any() and both[c.resolved & there][:,[0,1,2,4]].all()
            if c.id not in lost: assert np.array_equal(mine.residue_index[there], theirs.residue_index[there]) and np.array_equal(mine.insertion_code[there], theirs.insertion_code[there])
            back = from_esm(theirs)
            assert back.sequence==c.sequence and np.array_equal(back.coords[c.resolved & there], c.coords[c.resolved & there])
        print('residues with insertion codes that esm leaves out:', lost)
        assert set(lost)<={'1GBT_A', '4ZHL_U'}

    def test_their_tools_take_what_we_give(root, tmp_path, ProteinChain):
        from sa_toolkit.interop import to_esm
        c = read_chain(root/'sa_toolkit'/'assets'/'structures'/'2XHE.cif.gz', 'A')
        p = to_esm(c)
        near = np.linalg.norm(c.coords[:,None,1]-c.coords[None,:,1], axis=-1)[r := np.ix_(c.resolved, c.resolved)]
        assert np.allclose(p.pdist_CA[r], near, atol=1e-3) and np.isnan(p.pdist_CA[~c.resolved][:,c.resolved]).all()
        p.to_pdb(tmp_path/'x.pdb')
        again = read_chain(tmp_path/'x.pdb')
        assert again.sequence.replace('X', '')==''.join(a for a, k in zip(c.sequence, c.resolved) if k)
        assert np.allclose(again.coords[again.resolved], c.coords[c.resolved], atol=2e-3)
        assert p.rmsd(p)<1e-3 and len(ProteinChain.from_blob(p.to_blob()))==len(c)

    def test_confidence_of_predictions_goes_along():
        from dataclasses import replace

        from sa_toolkit.interop import to_esm
        c = replace(example_chain(), confidence_kind='pLDDT', confidence=np.linspace(30, 95, 76, dtype=np.float32))
        p = to_esm(c)
        assert np.allclose(p.atom_array.b_factor[p.atom_array.atom_name=='CA'], c.confidence, atol=1e-3) and np.allclose(from_esm(p).confidence, c.confidence, atol=1e-3)
        assert (to_esm(example_chain()).confidence==1).all()

    def test_esmc_through_it_by_name():
        import transformers

        from sa_toolkit.esmc import _library
        from sa_toolkit.plm import load_plm
        assert transformers.__version__.startswith('4.57.') and _library().__name__=='esm.models.esmc'
        plm = load_plm('esmc-300M', pretrained=False)
        assert type(plm.model).__module__=='esm.models.esmc.model' and sum(p.numel() for p in plm.model.parameters())==332997184
        assert plm.embed(['MKTAYIAKQR'])[0].shape==(10,960)

elif os.environ.get('SA_FULL'):
    def test_in_its_own_environment(root, copy, tmp_path):
        "What environment.yml installs with pip, on Python 3.12, and this file in it"
        python = shutil.which('python3.12') or pytest.fail('SA_FULL=1 needs python3.12 on the PATH for the environment of esm')
        lines = (copy/'environment.yml').read_text().split('- pip:')[1].strip().splitlines()
        args = [word for line in lines for word in line.strip().removeprefix('- ').split()]
        assert args==['-c', 'constraints-esm.txt', '-e', '.[lab,esm]']
        def sh(*cmd):
            r = subprocess.run([str(c) for c in cmd], cwd=copy, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert r.returncode==0, f'{cmd}\n{r.stdout[-3000:]}'
            return r.stdout
        sh(python, '-m', 'venv', tmp_path/'v')
        sh(tmp_path/'v'/'bin'/'pip', 'install', '-q', '--no-cache-dir', *args, 'pytest')
        assert 'sa-toolkit' in sh(tmp_path/'v'/'bin'/'sa-toolkit', '--help')
        said = sh(tmp_path/'v'/'bin'/'python', '-m', 'pytest', '-q', 'tests/test_esm.py', 'tests/test_esmc.py')
        assert ' passed' in said and ' skipped' not in said
